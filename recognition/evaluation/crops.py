"""Where the faces of a benchmark come from: each index an aligned crop of 112x112."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.align import align
from d2r_fast.engine.decode import DecodeError, decode

SIZE = 112
"""Pixels. Every benchmark here is defined on crops of this side."""


class Crops(Protocol):
    """Faces that can be read in any order and from any thread."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call it in a message."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """The crop, uint8 (112, 112, 3) RGB.

        Raises:
            DecodeError: there is no usable image.
        """


@dataclass(frozen=True)
class EncodedCrops:
    """Crops that are aligned already, as encoded files in memory."""

    images: Sequence[bytes]
    source: str

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"image {index} of {self.source}"

    def read(self, index: int) -> NDArray[np.uint8]:
        return to_side(decode(self.images[index], min_side=1))


@dataclass(frozen=True)
class LooseCrops:
    """Photographs in files, to be aligned by their landmarks float (N, 5, 2), x and y in pixels."""

    paths: Sequence[Path]
    landmarks: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def missing(self) -> list[int]:
        """Images that their folder does not list: one call for a folder, where asking for each file is one for each."""
        listed = {folder: _names_in(folder) for folder in {path.parent for path in self.paths}}
        return [row for row, path in enumerate(self.paths) if path.name not in listed[path.parent]]

    def read(self, index: int) -> NDArray[np.uint8]:
        try:
            data = self.paths[index].read_bytes()
        except OSError as error:
            raise DecodeError(error.strerror or "cannot be read") from None
        pixels = torch.tensor(decode(data, min_side=1))[None]  # decoded arrays may be read-only
        try:
            crops = align(pixels, torch.from_numpy(self.landmarks[index : index + 1]), size=SIZE)
        except ValueError:
            raise DecodeError("landmarks that coincide or are not finite") from None
        crop: NDArray[np.uint8] = crops[0].numpy()
        return crop


def _names_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()  # whatever ails the folder, none of its images can be read


def to_side(image: NDArray[np.uint8], *, side: int = SIZE) -> NDArray[np.uint8]:
    """A square image uint8 (H, H, 3) at (side, side, 3): itself, or resized as InsightFace resizes.

    That is cubic convolution (a = -0.75, no antialiasing), OpenCV's INTER_CUBIC, to a level. InsightFace makes the
    shorter side fit and then fails on what is not square, so there is no protocol for such an image.

    Raises:
        DecodeError: not square.
    """
    height, width = image.shape[:2]
    if height != width:
        raise DecodeError(f"{width}x{height} pixels: crops are square")
    if height == side:
        return image
    planes = torch.tensor(image).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(planes, (side, side), mode="bicubic", align_corners=False)
    found: NDArray[np.uint8] = resized.round().clamp(0, 255).byte()[0].permute(1, 2, 0).contiguous().numpy()
    return found
