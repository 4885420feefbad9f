"""What a translation method is: weights on a disk, networks made of them, and a batch that goes through these.

One image in, one image out, of the same size. A method says how to prepare a batch, run it and finish it; where
images come from, which backend computes and what becomes of the results is not its business.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Self

from torch import Tensor

from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.config import TranslateRecipe

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""A network in whatever backend it was opened: its ports' names -> rows, any number of them."""
Size = tuple[int, int]
"""Height and width in pixels."""


class Unfit(ValueError):
    """An image that a method cannot take; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Method(ABC):
    """A method with its weights found and recognised, and not loaded yet.

    Attributes:
        NAME: on the command line.
        breach: how this breaks Syn2Auth's rule (no face-recognition model and no identity labels anywhere in the
            translation, its training included), in a few words; None where it obeys it.
    """

    NAME: ClassVar[str]
    breach: str | None = None

    @classmethod
    @abstractmethod
    def open(cls, weights: Path, recipe: TranslateRecipe) -> Self:
        """Finds out what the weights are, by names and shapes.

        Raises:
            UserError: no such file, another method's, missing or extra tensors, or a setting that does not fit.
        """

    @abstractmethod
    def check(self, size: Size) -> None:
        """Sees that images of this size can be translated.

        Raises:
            Unfit: they cannot.
        """

    @abstractmethod
    def networks(self, size: Size) -> tuple[Exportable, ...]:
        """The networks that images of this size go through, not loaded yet; none where `run` computes by itself."""

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """Pixels as the networks take them.

        Args:
            images: (B, H, W, 3) uint8 RGB, on any device.

        Returns:
            (B, 3, h, w) float32 on that device.
        """

    @abstractmethod
    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        """Translates prepared images; each row a function of its image and its key alone.

        Args:
            networks: those of `networks`, opened, by name.
            inputs: (B, 3, h, w) float32, as `prepare` gives them.
            keys: (B, 2) int64 on the CPU: the identity's key (kernels.noise.identity_key) and the image's number,
                for methods that draw noise.

        Returns:
            (B, 3, h', w') float32, about -1 to 1.

        Raises:
            RunError: a network failed.
        """

    @abstractmethod
    def finish(self, outputs: Tensor, size: Size) -> Tensor:
        """Pixels of what `run` gave: (B, H, W, 3) uint8 RGB of the size that came in. Every value is finite here."""
