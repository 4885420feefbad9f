"""Aligned crops of a training set: which to look at, and their pixels."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.decode import DecodeError
from d2r_fast.engine.readers.each import decode_each
from d2r_fast.engine.readers.reader import Pixels, Reader
from d2r_fast.recognition.evaluation.crops import Crops, to_crop
from d2r_fast.recognition.training.training_set import TrainingSet


@dataclass(frozen=True, slots=True)
class Unusable:
    """An image that could not be used, by its key, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class ChosenCrops(Crops):
    """The images of a set at `indices` (N,), as crops of 112x112; what cannot be read is remembered."""

    images: TrainingSet
    indices: NDArray[np.int64]
    _reasons: dict[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """The image's key."""
        return self.images.key(int(self.indices[index]))

    def read_each(self, indices: Sequence[int], reader: Reader) -> list[Pixels | DecodeError]:
        """The crops, uint8 (112,112,3) RGB, square images of another size resized; or why one is not usable."""
        images = decode_each(reader, self.images.read, self.indices[list(indices)].tolist())
        found = [
            DecodeError(image.strerror or "cannot be read") if isinstance(image, OSError) else to_crop(image)
            for image in images
        ]
        self._reasons.update(
            {
                index: crop.reason
                for index, crop in zip(indices, found, strict=True)
                if isinstance(crop, DecodeError)
            }
        )
        return found

    def try_read(self, index: int) -> NDArray[np.uint8] | None:
        """The same; None where it cannot be read."""
        try:
            return self.read(index)
        except DecodeError:
            return None

    def leave_out(self, indices: Iterable[int], reason: str) -> None:
        """Count images as unusable, for this reason if there is none yet."""
        for index in indices:
            self._reasons.setdefault(index, reason)

    @property
    def unusable(self) -> tuple[Unusable, ...]:
        """What could not be used so far, in the order of the set."""
        return tuple(Unusable(self.name(index), self._reasons[index]) for index in sorted(self._reasons))


def choose_images(images: TrainingSet, *, per_identity: int | None, seed: int) -> NDArray[np.int64]:
    """Indices, ascending, of all images, or of at most `per_identity` of each class.

    Which ones depends on the seed and the images' keys alone: those whose hash is lowest.
    """
    labels = images.labels
    if per_identity is None:
        return np.arange(len(labels))
    order = np.lexsort((_hashes(images, seed), labels))
    starts = np.searchsorted(labels[order], labels[order])
    return np.sort(order[np.arange(len(order)) - starts < per_identity])


def choose_any(images: TrainingSet, *, num: int, seed: int) -> NDArray[np.int64]:
    """Indices, ascending, of `num` images, or of all if there are no more: those whose hash is lowest."""
    if len(images.labels) <= num:
        return np.arange(len(images.labels))
    return np.sort(np.argsort(_hashes(images, seed), kind="stable")[:num])


def _hashes(images: TrainingSet, seed: int) -> NDArray[np.uint64]:
    texts = (f"{seed} {images.key(index)}".encode() for index in range(len(images.labels)))
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.array([int.from_bytes(digest) for digest in digests], np.uint64)


def read_crops(crops: ChosenCrops) -> NDArray[np.uint8]:
    """All of them that can be read: uint8 (N,112,112,3) RGB."""
    with ThreadPoolExecutor() as pool:
        found = [crop for crop in pool.map(crops.try_read, range(len(crops))) if crop is not None]
    return np.stack(found) if found else np.empty((0, 112, 112, 3), np.uint8)
