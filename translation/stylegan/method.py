"""StyleGAN inversion: an image becomes a latent of a generator of real faces, and that becomes an image again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.method import Method, Run, Size
from d2r_fast.translation.resize import resize
from d2r_fast.translation.stylegan.checkpoint import Parts, average_latent, breach_of, kind_of, read_parts
from d2r_fast.translation.stylegan.encoder import EncoderShape, Kind
from d2r_fast.translation.stylegan.encoder import shape_of as encoder_shape
from d2r_fast.translation.stylegan.generator import GeneratorShape
from d2r_fast.translation.stylegan.generator import shape_of as generator_shape
from d2r_fast.translation.stylegan.networks import (
    ENCODER,
    GENERATOR,
    open_encoder,
    open_generator,
    output_side,
)
from d2r_fast.translation.stylegan.search import Search


@dataclass(frozen=True)
class StyleganInversion(Method):
    """e4e or pSp, or a search in W or W+.

    Images are resized to the encoder's 256 pixels (bilinear, filtered where they shrink), as e4e's and pSp's programs
    do, whatever their shape, and back in the same way; those programs expect faces cut out as FFHQ's are, which
    renders are not. The generator's image is averaged to 256 pixels, to more where the result is to be larger. With
    `latent` w or w+ the target has the side of that average, and each image is searched for by itself, so that a batch
    does not change it.

    Attributes:
        path: the checkpoint's file.
        generator: its generator's sizes.
        encoder: its encoder's sizes and whose it is; None where a search takes its place.
        search: what takes the encoder's place with --latent w or w+.
        breach: as in Method.
    """

    NAME: ClassVar[str] = "stylegan-inversion"

    path: Path
    generator: GeneratorShape
    encoder: tuple[EncoderShape, Kind] | None
    search: Search | None
    breach: str | None

    @classmethod
    def open(cls, weights: Path, recipe: TranslateRecipe) -> Self:
        latent = recipe.latent or "encoder"
        if latent == "encoder" and recipe.steps is not None:
            raise UserError(
                f"--steps {recipe.steps} with --latent encoder, which takes none: leave it out, or say "
                "--latent w or w+"
            )
        parts = read_parts(weights)
        generator = generator_shape(parts.generator, parts.path)
        if latent == "encoder":
            encoder, search = _open_encoder(parts, generator), None
        else:
            steps = recipe.filled().steps
            assert steps is not None
            encoder, search = None, Search(parts.path, latent=latent, num_steps=steps)
        breach = breach_of(parts.opts, encoder=encoder is not None)
        method = cls(parts.path, generator, encoder, search, breach)
        if recipe.size not in (None, method.side):
            raise UserError(
                f"--size {recipe.size}: this StyleGAN inversion sees {method.side} pixels: leave it out"
            )
        return method

    @property
    def side(self) -> int:
        """Of the square image that is inverted."""
        return self.encoder[0].side if self.encoder else output_side(self.generator.resolution, wanted=0)

    def check(self, size: Size) -> None:
        """Every size fits: it is resized."""

    def networks(self, size: Size) -> tuple[Exportable, ...]:
        if self.encoder is None:
            return ()
        shape, kind = self.encoder
        side = output_side(self.generator.resolution, wanted=max(size))
        return (
            open_encoder(self.path, shape=shape, kind=kind),
            open_generator(self.path, shape=self.generator, side=side),
        )

    def prepare(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        return resize(pixels, (self.side, self.side), how="bilinear")

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        if self.encoder is None:
            assert self.search is not None, "an encoder, or a search in its place"
            return self.search(inputs, keys)
        latents = networks[ENCODER]({"image": inputs})["latents"]
        return networks[GENERATOR]({"latents": latents})["image"]

    def finish(self, outputs: Tensor, size: Size) -> Tensor:
        pixels = (resize(outputs, size, how="bilinear").clamp(-1, 1) + 1) * 127.5
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _open_encoder(parts: Parts, generator: GeneratorShape) -> tuple[EncoderShape, Kind]:
    """The encoder's sizes and whose it is.

    Raises:
        UserError: no encoder, one that is not read here, or one for another generator.
    """
    kind = kind_of(parts)
    shape = encoder_shape(parts.encoder, parts.path)
    wanted, given = (generator.num_styles, generator.style_dim), (shape.num_styles, shape.style_dim)
    if wanted != given:
        raise UserError(
            f"{parts.path}: its encoder gives {given[0]} rows of {given[1]}, its generator of {generator.resolution} "
            f"pixels takes {wanted[0]} of {wanted[1]}: give the checkpoint as its program wrote it"
        )
    average_latent(parts, num_styles=given[0], style_dim=given[1])
    return shape, kind
