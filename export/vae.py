"""The VAE's decoder as it is exported, with the 1x1 convolution before it."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.models.layout import VAE
from d2r_fast.engine.models.load import config_file, load_decoder, read_skeleton, weight_file
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.graph import BATCH
from d2r_fast.export.unet import image_size, normal, pixels_per_latent, size_settings


class DecoderGraph(nn.Module):
    """Latents (N,4,h,w), already divided by the scaling factor -> images (N,3,H,W), about -1 to 1."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        images: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return images


def open_vae(models: Path, *, height: int | None, width: int | None) -> TorchExportable:
    """The folder's VAE decoder for images of this size."""
    config = read_skeleton(models, VAE).config
    size = image_size(models, height=height, width=width)
    sides = [side // pixels_per_latent(models) for side in size]
    return TorchExportable(
        name="vae",
        inputs=(Port("latents", torch.float32, ("batch", config.latent_channels, *sides)),),
        outputs=(Port("images", torch.float32, ("batch", config.out_channels, *size)),),
        files={str(VAE.config): config_file(models, VAE), VAE.weights[0]: weight_file(models, VAE)},
        settings=size_settings(size),
        draws={"latents": partial(_latents, scaling_factor=config.scaling_factor)},
        make=partial(_load, models),
        dynamic_axes={"latents": {0: BATCH}},
    )


def _load(models: Path) -> nn.Module:
    return DecoderGraph(load_decoder(models, device="cpu", dtype=torch.float32))


def _latents(shape: tuple[int, ...], generator: torch.Generator, *, scaling_factor: float) -> Tensor:
    """As a sampler leaves them, whose units have a variance of one."""
    return normal(shape, generator) / scaling_factor
