"""Translation by a generator that was trained on unpaired images: VSAIT, DECENT and UNSB.

Their programs scale pixels to [-1, 1], run the generator, scale back and cut the fraction off; here it is rounded,
which makes the pixels brighter by half a level on average. VSAIT's and DECENT's networks are the same size; that
Syn2Auth times them 8.7 times apart is their programs' doing. None uses a recogniser or labels, in training either.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from d2r_fast.export.exportable import Exportable
from d2r_fast.kernels.noise import normal
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.gan.networks import Plan, open_generator, plan_of
from d2r_fast.translation.gan.random_weights import GanName
from d2r_fast.translation.gan.schroedinger_bridge import next_state
from d2r_fast.translation.method import Method, Run, Size, Unfit
from d2r_fast.translation.resize import crop, pad_to_multiple, resize

MULTIPLE = 4
"""What two halvings ask of a side. The published networks give back a larger image than they are given otherwise."""
LEAST = 16
"""Pixels of the shorter side, from which borders of 3 reflected pixels and norms over a quarter of it make sense."""


class GanMethod(Method):
    """What the three have in common.

    Args:
        plan: of the network.
        size: side at which the network sees the image; None: the image's own.
    """

    NAME: ClassVar[GanName]

    def __init__(self, plan: Plan, *, size: int | None) -> None:
        self._plan, self._size = plan, size

    @classmethod
    def open(cls, weights: Path, recipe: TranslateRecipe) -> Self:
        return cls(plan_of(cls.NAME, weights), size=recipe.size)

    def check(self, size: Size) -> None:
        if min(size) < LEAST and self._size is None:
            raise Unfit(f"{size[1]}x{size[0]} pixels, and {self.NAME} takes sides of {LEAST} and more")

    def networks(self, size: Size) -> tuple[Exportable, ...]:
        height, width = (-(-side // MULTIPLE) * MULTIPLE for side in self._seen(size))
        return (open_generator(self._plan, height=height, width=width),)

    def prepare(self, images: Tensor) -> Tensor:
        """(x / 255 - 0.5) / 0.5; resized (bilinear, antialiased) where a size is given, and padded on the right and
        below, by reflection, to multiples of 4."""
        pixels = images.movedim(-1, 1).float() / 127.5 - 1
        seen = resize(pixels, self._seen((pixels.shape[2], pixels.shape[3])), how="bilinear")
        return pad_to_multiple(seen, MULTIPLE)

    @abstractmethod
    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor: ...

    def finish(self, outputs: Tensor, size: Size) -> Tensor:
        """The padding cropped off, resized back (bilinear, antialiased), rounded last."""
        pixels = resize(crop(outputs, self._seen(size)), size, how="bilinear")
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()

    def _seen(self, size: Size) -> Size:
        """Height and width that the network sees, padding apart."""
        return size if self._size is None else (self._size, self._size)


class Vsait(GanMethod):
    """VSAIT: one run of the generator."""

    NAME = "vsait"

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        return networks[self.NAME]({"images": inputs})["translated"]


class Decent(GanMethod):
    """DECENT: one run of the generator."""

    NAME = "decent"

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        return networks[self.NAME]({"images": inputs})["translated"]


class Unsb(GanMethod):
    """UNSB: as many runs of the generator as Syn2Auth's NE, 1 to 5, each on a noisy mix of the last two images.

    The k-th run's output is the released program's `fake_k`: with fewer runs the bridge's times stay those of five.

    Args:
        plan: of the network.
        size: side at which the network sees the image; None: the image's own.
        nfe: runs.
    """

    NAME = "unsb"

    def __init__(self, plan: Plan, *, size: int | None, nfe: int) -> None:
        super().__init__(plan, size=size)
        self._nfe = nfe

    @classmethod
    def open(cls, weights: Path, recipe: TranslateRecipe) -> Self:
        nfe = recipe.filled().nfe
        assert nfe is not None
        return cls(plan_of(cls.NAME, weights), size=recipe.size, nfe=nfe)

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        state = image = inputs
        for step in range(self._nfe):
            if step:
                noise = draw_noise(keys, 2 * step, tuple(inputs.shape[1:])).to(inputs.device)
                state = next_state(state, image, noise, index=step)
            codes = draw_noise(keys, 2 * step + 1, (self._plan.code_length,)).to(inputs.device)
            values = {"images": state, "codes": codes}
            if self._plan.timed:
                values["time"] = torch.full((len(inputs),), step, device=inputs.device)
            image = networks[self.NAME](values)["translated"]
        return image


def draw_noise(keys: Tensor, stream: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers (B, *shape) float32 for keys (B, 2) of image and identity, on the CPU; a row depends on
    its key alone. Streams: 2 t is the noise before run t, 2 t + 1 the random code of run t."""
    words = torch.tensor([0, stream]).expand(len(keys), 2)
    return normal(torch.cat([keys.cpu(), words], 1), shape)
