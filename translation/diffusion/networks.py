"""The networks of a diffusion model as engines are built of them: encoder, UNet, decoder."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.export.exportable import Draw, TorchExportable
from d2r_fast.export.graph import BATCH
from d2r_fast.translation.diffusion.model import PIXEL_CHANNELS, DiffusionModel, Part
from d2r_fast.translation.diffusion.quantise import Quantiser

UNET, ENCODER, DECODER = "ldm-unet", "ldm-encoder", "ldm-decoder"


class UNetGraph(nn.Module):
    """(latents (N,C,h,w), timesteps (N,) int64) -> the noise in them (N,C,h,w)."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        noise: Tensor = self.unet(latents, timesteps, return_dict=False)[0]
        return noise


class EncoderGraph(nn.Module):
    """Images (N,3,H,W) in [-1, 1] -> latents (N,C,h,w) as the UNet sees them.

    Of a VQ they are not quantised: diffusion was trained on what comes before the code book. Of a KL they are the mean.
    """

    def __init__(self, first_stage: Any, *, scale: float) -> None:
        super().__init__()
        self.encoder, self.scale = first_stage.encoder, scale
        self.quant_conv = getattr(first_stage, "quant_conv", None)
        self.num_channels = latent_width(first_stage)

    def forward(self, images: Tensor) -> Tensor:
        latents: Tensor = self.encoder(images)
        if self.quant_conv is not None:
            latents = self.quant_conv(latents)
        if latents.shape[1] > self.num_channels:
            latents = latents[:, : self.num_channels]
        return latents * self.scale


class DecoderGraph(nn.Module):
    """Latents (N,C,h,w) as the UNet sees them -> images (N,3,H,W), about -1 to 1; through the code book of a VQ."""

    def __init__(self, first_stage: Any, *, scale: float) -> None:
        super().__init__()
        self.decoder, self.scale = first_stage.decoder, scale
        self.post_quant_conv = getattr(first_stage, "post_quant_conv", None)
        quantise = getattr(first_stage, "quantize", None)
        self.quantise = nn.Identity() if quantise is None else Quantiser(quantise.embedding.weight.detach())

    def forward(self, latents: Tensor) -> Tensor:
        latents = self.quantise(latents / self.scale)
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        images: Tensor = self.decoder(latents)
        return images


def latent_width(first_stage: Any) -> int:
    """Channels of a first stage's latents: a KL's encoder gives their logarithms of variances after them."""
    config = first_stage.config
    return int(getattr(config, "vq_embed_dim", None) or config.latent_channels)


def open_networks(model: DiffusionModel, *, side: int) -> tuple[TorchExportable, ...]:
    """The model's networks for square images of this side in pixels, not loaded yet."""
    small = side // model.pixels_per_latent
    latents = Port("latents", torch.float32, ("batch", model.unet.config["in_channels"], small, small))
    timesteps = Port("timesteps", torch.int64, ("batch",))
    noise = Port("noise", torch.float32, latents.shape)
    most = len(model.schedule.alphas)
    unet = _exportable(
        UNET, model.unet, (latents, timesteps), noise, side=side,
        draws={"latents": _normal, "timesteps": partial(_timestep, most=most)},
    )  # fmt: skip
    if model.first_stage is None:
        return (unet,)
    images = Port("images", torch.float32, ("batch", PIXEL_CHANNELS, side, side))
    first_stage = partial(_exportable, part=model.first_stage, side=side, scale=model.scale)
    encoder = first_stage(ENCODER, inputs=(images,), output=latents, draws={"images": _pixels})
    decoder = first_stage(DECODER, inputs=(latents,), output=images, draws={"latents": _normal})
    return encoder, unet, decoder


def _exportable(
    name: str,
    part: Part,
    inputs: tuple[Port, ...],
    output: Port,
    *,
    side: int,
    draws: dict[str, Draw],
    scale: float | None = None,
) -> TorchExportable:
    settings = {"height": str(side), "width": str(side)} | ({} if scale is None else {"scale": repr(scale)})
    return TorchExportable(
        name=name,
        inputs=inputs,
        outputs=(output,),
        files=part.files,
        settings=settings,
        draws=draws,
        make=partial(_make, name, part, scale),
        dynamic_axes={port.name: {0: BATCH} for port in inputs},
        wide=True,
    )


def _make(name: str, part: Part, scale: float | None) -> nn.Module:
    network = part.load()
    if scale is None:
        return UNetGraph(network)
    return (EncoderGraph if name == ENCODER else DecoderGraph)(network, scale=scale)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _pixels(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * 2 - 1


def _timestep(_: tuple[int, ...], generator: torch.Generator, *, most: int) -> Tensor:
    return torch.randint(most, (), generator=generator)
