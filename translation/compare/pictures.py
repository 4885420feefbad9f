"""Which pictures a comparison is made on, and their pixels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from d2r_fast.engine.decode import DecodeError, decode
from d2r_fast.engine.source import Image, Source

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A picture that could be read: pixels uint8 (H, W, 3) RGB, and the number of the image in its identity."""

    image: Image
    number: int
    pixels: Pixels

    @property
    def name(self) -> str:
        return f"{self.image.identity}/{self.image.name}"


def choose(source: Source, *, num: int) -> list[tuple[Image, int]]:
    """The first image of every identity, then the second of every one, until there are `num`; and their numbers."""
    rounds = zip_longest(*(enumerate(identity.images) for identity in source.identities[:num]))
    found = (
        (image, number) for turn in rounds for number, image in (pair for pair in turn if pair is not None)
    )
    return list(islice(found, num))


def spread(source: Source, *, num: int) -> list[tuple[Image, int]]:
    """At most `num` images, evenly spread over all."""
    everything = [(image, n) for identity in source.identities for n, image in enumerate(identity.images)]
    places = np.unique(np.linspace(0, len(everything) - 1, min(num, len(everything))).round().astype(int))
    return [everything[place] for place in places]


def read_pictures(source: Source, chosen: Iterable[tuple[Image, int]]) -> tuple[list[Picture], list[str]]:
    """Those that can be read, and for the others a line each: which, and why."""
    pictures, unreadable = [], []
    for image, number in chosen:
        try:
            pictures.append(Picture(image, number, decode(source.read(image))))
        except DecodeError as error:
            unreadable.append(f"{image.identity}/{image.name}: {error.reason}")
        except OSError as error:
            unreadable.append(f"{image.identity}/{image.name}: {error.strerror or 'cannot be read'}")
    return pictures, unreadable


def at_side(pictures: Sequence[Pixels], side: int) -> Pixels:
    """All at one size, uint8 (N, side, side, 3): bilinear, antialiased where they shrink."""
    found = np.empty((len(pictures), side, side, 3), np.uint8)
    for place, pixels in zip(found, pictures, strict=True):
        place[:] = pixels if pixels.shape[:2] == (side, side) else _resized(pixels, side)
    return found


def _resized(pixels: Pixels, side: int) -> Pixels:
    planes = torch.tensor(pixels).permute(2, 0, 1)[None].float()
    resized = interpolate(planes, (side, side), mode="bilinear", antialias=True)
    found: Pixels = resized.round().clamp(0, 255).byte()[0].permute(1, 2, 0).numpy()
    return found
