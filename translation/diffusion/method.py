"""DDIM inversion (Song et al., arXiv 2010.02502): an image into an unconditional model's noise, and back.

Syn2Auth used "an unconditional diffusion model trained exclusively on a dataset like FFHQ" and names neither it nor the
number of steps. CompVis' latent diffusion of FFHQ at 256 pixels and 50 steps each way are our choice. What changes an
image is that inversion is not exact: it comes back as what the model would have drawn from nearly its noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.diffusion.compvis import open_compvis
from d2r_fast.translation.diffusion.folder import open_folder
from d2r_fast.translation.diffusion.inversion import Noise, generate, invert
from d2r_fast.translation.diffusion.model import DiffusionModel
from d2r_fast.translation.diffusion.networks import DECODER, ENCODER, UNET, open_networks
from d2r_fast.translation.diffusion.steps import Walk
from d2r_fast.translation.method import Method, Run, Size, Unfit
from d2r_fast.translation.resize import resize


@dataclass(frozen=True)
class DdimInversion(Method):
    """Inversion by an unconditional model, S evaluations up and S down, eta 0: nothing is drawn, so keys do not matter.

    Attributes:
        model: whose weights.
        walk: the steps, the same both ways.
        side: pixels at which the networks see an image.
    """

    NAME: ClassVar[str] = "ddim-inversion"
    model: DiffusionModel
    walk: Walk
    side: int

    @classmethod
    def open(cls, weights: Path, recipe: TranslateRecipe) -> Self:
        """Recognises CompVis' model.ckpt (as .ckpt or .safetensors) or a diffusers folder.

        Raises:
            UserError: see `open_compvis` and `open_folder`; more steps than the model has timesteps, or a size that
                its networks cannot halve.
        """
        model = open_folder(weights) if weights.is_dir() else open_compvis(weights)
        side = recipe.size or model.side
        if side % model.multiple:
            raise UserError(f"size {side}: this model takes multiples of {model.multiple} pixels")
        steps = recipe.filled().steps
        assert steps is not None
        return cls(model, model.schedule.walk(steps), side)

    def check(self, size: Size) -> None:
        """Any square: it is resized to the model's.

        Raises:
            Unfit: the image is not square, and faces were squares where the model learned them.
        """
        height, width = size
        if height != width:
            raise Unfit(f"{width} x {height} pixels, and the model takes squares")

    def networks(self, size: Size) -> tuple[Exportable, ...]:
        """ldm-encoder, ldm-unet and ldm-decoder; ldm-unet alone for a model of pixels."""
        return open_networks(self.model, side=self.side)

    def prepare(self, images: Tensor) -> Tensor:
        """(B, 3, side, side) in [-1, 1]: x / 127.5 - 1, then resized (bicubic, antialiased where it shrinks)."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        return resize(pixels, (self.side, self.side), how="bicubic").clamp(-1, 1)

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        """Encoded, inverted, generated again and decoded; the state between steps is float32 on any backend."""
        latents = networks[ENCODER]({"images": inputs})["latents"] if ENCODER in networks else inputs
        predict = noise_of(networks[UNET])
        latents = generate(invert(latents, predict, self.walk), predict, self.walk)
        return networks[DECODER]({"latents": latents})["images"] if DECODER in networks else latents

    def finish(self, outputs: Tensor, size: Size) -> Tensor:
        """Clipped to [-1, 1], resized (bicubic, antialiased where it shrinks), and rounded to the nearest of 256."""
        pixels = resize(outputs.clamp(-1, 1), size, how="bicubic").clamp(-1, 1)
        return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def noise_of(unet: Run) -> Noise:
    """The opened ldm-unet as a function of samples and timesteps."""
    return lambda x, timesteps: unet({"latents": x, "timesteps": timesteps})["noise"]
