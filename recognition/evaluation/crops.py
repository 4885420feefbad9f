"""Where the faces of a benchmark come from: each index an aligned crop of 112x112."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.align import similarity
from d2r_fast.engine.decode import DecodeError
from d2r_fast.engine.readers.each import read_each
from d2r_fast.engine.readers.plain import PlainReader
from d2r_fast.engine.readers.reader import Pixels, Reader

SIZE = 112
"""Pixels. Every benchmark here is defined on crops of this side."""
_ANY = np.eye(2, 3)
"""Where there is no matrix: the file is still to be judged."""


class Crops(Protocol):
    """Faces that can be read in any order and from any thread."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call it in a message."""

    @abstractmethod
    def read_each(self, indices: Sequence[int], reader: Reader) -> list[Pixels | DecodeError]:
        """The crops, uint8 (112, 112, 3) RGB, or why one is not usable."""

    def read(self, index: int) -> Pixels:
        """One of them, by the plain reader.

        Raises:
            DecodeError: there is no usable image.
        """
        (found,) = self.read_each([index], PlainReader())
        if isinstance(found, DecodeError):
            raise found
        return found


@dataclass(frozen=True)
class EncodedCrops(Crops):
    """Crops that are aligned already, as encoded files in memory."""

    images: Sequence[bytes]
    source: str

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"image {index} of {self.source}"

    def read_each(self, indices: Sequence[int], reader: Reader) -> list[Pixels | DecodeError]:
        found = reader.decode([self.images[index] for index in indices], min_side=1)
        return [to_crop(image) for image in found]


@dataclass(frozen=True)
class LooseCrops(Crops):
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

    def read_each(self, indices: Sequence[int], reader: Reader) -> list[Pixels | DecodeError]:
        files = read_each(lambda index: self.paths[index].read_bytes(), indices)
        matrices = [_matrix(self.landmarks[index]) for index in indices]
        rows = [row for row, file in enumerate(files) if isinstance(file, bytes)]
        aligned = reader.align(
            [file for file in files if isinstance(file, bytes)],
            np.array([_ANY if matrices[row] is None else matrices[row] for row in rows]).reshape(-1, 2, 3),
            size=SIZE, min_side=1,
        )  # fmt: skip
        found = dict(zip(rows, aligned, strict=True))
        for row, file in enumerate(files):
            if isinstance(file, OSError):
                found[row] = DecodeError(file.strerror or "cannot be read")
            elif matrices[row] is None and not isinstance(found[row], DecodeError):
                found[row] = DecodeError("landmarks that coincide or are not finite")
        return [found[row] for row in range(len(files))]


def _matrix(landmarks: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """The (2, 3) that takes the face to the template; None where the points (5, 2) fix none."""
    try:
        matrix: NDArray[np.float64] = similarity(torch.from_numpy(landmarks[None]), SIZE)[0].numpy()
    except ValueError:
        return None
    return matrix


def _names_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()  # whatever ails the folder, none of its images can be read


def to_crop(image: Pixels | DecodeError) -> Pixels | DecodeError:
    """What a reader found at (SIZE, SIZE, 3)."""
    try:
        return image if isinstance(image, DecodeError) else to_side(image)
    except DecodeError as error:
        return error


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
