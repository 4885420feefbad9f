"""The encoder and the generator as they are exported."""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.export.exportable import TorchExportable
from d2r_fast.export.graph import BATCH
from d2r_fast.translation.stylegan.checkpoint import average_latent, kind_of, read_parts
from d2r_fast.translation.stylegan.encoder import Encoder, EncoderShape, Kind, load_encoder
from d2r_fast.translation.stylegan.generator import Generator, GeneratorShape, load_generator

ENCODER, GENERATOR = "stylegan-encoder", "stylegan-generator"
PUBLISHED_SIDE = 256
"""To which e4e's and pSp's networks average the generator's image unless told not to, as their programs for single
pictures tell them."""


class EncoderGraph(nn.Module):
    """Images (N, 3, side, side) in [-1, 1] -> W+ (N, num_styles, style_dim)."""

    average: Tensor

    def __init__(self, encoder: Encoder, average: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("average", average)

    def forward(self, image: Tensor) -> Tensor:
        latents: Tensor = self.encoder(image) + self.average
        return latents


class GeneratorGraph(nn.Module):
    """W+ (N, num_styles, style_dim) -> images (N, 3, side, side), averaged down to it."""

    def __init__(self, generator: Generator, *, side: int) -> None:
        super().__init__()
        self.generator, self._side = generator, side

    def forward(self, latents: Tensor) -> Tensor:
        return averaged(self.generator(latents), self._side)


def averaged(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, H) averaged down to (N, C, side, side); H a multiple of it. As AdaptiveAvgPool2d does."""
    factor = images.shape[-1] // side
    return F.avg_pool2d(images, factor) if factor > 1 else images


def output_side(resolution: int, *, wanted: int) -> int:
    """Side that the generator's image is averaged to: 256 as the networks do, more where the result is to be larger."""
    side = min(resolution, PUBLISHED_SIDE)
    while side < min(wanted, resolution):
        side *= 2
    return side


def open_encoder(path: Path, *, shape: EncoderShape, kind: Kind) -> TorchExportable:
    """The encoder of a checkpoint, with the average latent."""
    return TorchExportable(
        name=ENCODER,
        inputs=(Port("image", torch.float32, ("batch", 3, shape.side, shape.side)),),
        outputs=(Port("latents", torch.float32, ("batch", shape.num_styles, shape.style_dim)),),
        files={path.name: path},
        settings={"height": str(shape.side), "width": str(shape.side), "kind": kind},
        draws={"image": _image},
        make=partial(_load_encoder, path),
        dynamic_axes={"image": {0: BATCH}},
    )


def open_generator(path: Path, *, shape: GeneratorShape, side: int) -> TorchExportable:
    """The generator of a checkpoint, its images averaged down to `side`."""
    return TorchExportable(
        name=GENERATOR,
        inputs=(Port("latents", torch.float32, ("batch", shape.num_styles, shape.style_dim)),),
        outputs=(Port("image", torch.float32, ("batch", 3, side, side)),),
        files={path.name: path},
        settings={"height": str(side), "width": str(side), "resolution": str(shape.resolution)},
        draws={"latents": _latents},
        make=partial(_load_generator, path, side=side),
        dynamic_axes={"latents": {0: BATCH}},
    )


def _load_encoder(path: Path) -> nn.Module:
    parts = read_parts(path)
    encoder = load_encoder(parts.encoder, path, kind=kind_of(parts))
    shape = encoder.shape
    return EncoderGraph(
        encoder, average_latent(parts, num_styles=shape.num_styles, style_dim=shape.style_dim)
    )


def _load_generator(path: Path, *, side: int) -> nn.Module:
    generator = load_generator(read_parts(path).generator, path)
    generator.slim()
    return GeneratorGraph(generator, side=side)


def _image(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * 2 - 1


def _latents(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """As the mapping network leaves them: about as large as the normalised z that it takes."""
    return torch.randn(shape, generator=generator)
