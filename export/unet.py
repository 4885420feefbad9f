"""The denoising UNet as it is exported: a timestep per row, so that rows at different steps share a batch."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.condition import NUM_TOKENS
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.layout import LORA, UNET, VAE
from d2r_fast.engine.models.load import config_file, load_unet, read_skeleton, weight_file
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.graph import BATCH

NUM_TIMESTEPS = 1000


class UNetGraph(nn.Module):
    """(latents (N,4,h,w), timesteps (N,) int64, context (N,77,C)) -> predicted noise (N,4,h,w)."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        noise: Tensor = self.unet(latents, timesteps, encoder_hidden_states=context, return_dict=False)[0]
        return noise


def open_unet(models: Path, *, height: int | None, width: int | None, lora: bool) -> TorchExportable:
    """The folder's UNet for images of this size, with its LCM-LoRA merged into it if wanted."""
    config = read_skeleton(models, UNET).config
    size = image_size(models, height=height, width=width)
    channels, sides = config.in_channels, [side // pixels_per_latent(models) for side in size]
    files = {UNET.config: config_file(models, UNET), UNET.weights[0]: weight_file(models, UNET)}
    if lora:
        files["lora"] = weight_file(models, LORA)
    ports = (
        Port("latents", torch.float32, ("batch", channels, *sides)),
        Port("timesteps", torch.int64, ("batch",)),
        Port("context", torch.float32, ("batch", NUM_TOKENS, config.cross_attention_dim)),
    )
    return TorchExportable(
        name="unet",
        inputs=ports,
        outputs=(Port("noise", torch.float32, ("batch", config.out_channels, *sides)),),
        files={str(name): path for name, path in files.items()},
        settings=size_settings(size),
        draws={"latents": normal, "timesteps": _timestep, "context": normal},
        make=partial(_load, models, lora=lora),
        dynamic_axes={port.name: {0: BATCH} for port in ports},
    )


def _load(models: Path, *, lora: bool) -> nn.Module:
    return UNetGraph(load_unet(models, device="cpu", dtype=torch.float32, lora=lora))


def pixels_per_latent(models: Path) -> int:
    """Image side / latent side of the folder's VAE."""
    factor: int = 2 ** (len(read_skeleton(models, VAE).config.block_out_channels) - 1)
    return factor


def image_size(models: Path, *, height: int | None, width: int | None) -> tuple[int, int]:
    """(height, width) in pixels: as given, else what the UNet was trained on.

    Raises:
        UserError: one of them alone, or sides that are no whole number of latents.
    """
    factor = pixels_per_latent(models)
    if height is None or width is None:
        if height is not None or width is not None:
            raise UserError(f"height {height} and width {width}: give both or neither")
        sides = read_skeleton(models, UNET).config.sample_size
        if sides is None:
            raise UserError(
                f"{config_file(models, UNET)}: no sample_size, the side of the latents that the UNet was trained on: "
                "give --height and --width"
            )
        height, width = (factor * side for side in ((sides, sides) if isinstance(sides, int) else sides))
    for name, side in (("height", height), ("width", width)):
        if side < factor or side % factor:
            raise UserError(f"{name} {side}: expected a multiple of {factor} pixels")
    return height, width


def size_settings(size: tuple[int, int]) -> Mapping[str, str]:
    """An image size in pixels as part of a network's source."""
    return {"height": str(size[0]), "width": str(size[1])}


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """N(0, 1): initial latents, and about what an encoder's last layer norm gives."""
    return torch.randn(shape, generator=generator)


def _timestep(_: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(NUM_TIMESTEPS, (), generator=generator)
