"""Decoded images put together to batches of one size."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r_fast.translation.method import Size
from d2r_fast.translation.shard import Task

SHARDS_APART = 1
"""Shards that an image may be followed by before it is translated in a batch that is not full: what waits longer
keeps its shard, and all that follow it, in memory."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image's pixels, uint8 (H, W, 3) RGB."""

    task: Task
    pixels: NDArray[np.uint8]

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def batches(images: Iterable[Decoded], batch_size: int) -> Iterator[list[Decoded]]:
    """Batches of up to `batch_size` images of one size, a function of the images' order and sizes alone."""
    waiting: dict[Size, list[Decoded]] = {}
    for image in images:
        for size in [size for size, held in waiting.items() if _too_old(held[0], image)]:
            yield waiting.pop(size)
        held = waiting.setdefault(image.size, [])
        held.append(image)
        if len(held) == batch_size:
            yield waiting.pop(image.size)
    yield from waiting.values()


def _too_old(oldest: Decoded, newest: Decoded) -> bool:
    return newest.task.shard - oldest.task.shard > SHARDS_APART
