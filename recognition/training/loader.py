"""Batches of a training set, decoded ahead of their use and augmented on the device.

    loader = Loader(images, device="cuda:0", channels="bgr", augment=AugmentConfig(), num_threads=8, max_unreadable=100)
    for inputs, labels in loader.epoch(order, seed=0, epoch=3):
        ...

Threads read and decode; Pillow lets go of Python's lock while it unpacks pixels, so they work side by side.
What a batch holds depends on (order, seed, epoch) alone, whichever thread was first.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from d2r_fast.engine.console import say
from d2r_fast.engine.decode import DecodeError
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.readers.each import decode_each
from d2r_fast.engine.readers.plain import PlainReader
from d2r_fast.engine.readers.reader import Reader
from d2r_fast.recognition.training.augment import Channels, augment, draw_numbers
from d2r_fast.recognition.training.augment_config import AugmentConfig
from d2r_fast.recognition.training.training_set import TrainingSet

SIDE = 112
AHEAD = 4
"""Batches in work: enough that no thread waits for the slowest image of a batch, few enough for memory (a
batch of 256 is 9.6 MB)."""
_CHUNK = 16
"""Images that a thread takes at a time: fewer cost more in hand-overs, more leave threads idle at the end."""
_MIN_ROWS = 2
"""Batch normalisation needs two rows."""
_SHOWN = 5


class Loader:
    """Reads, decodes, augments.

    Images of another size than 112x112 are scaled to it (Pillow, bilinear) if they are square, which is said
    once and counted in `num_resized`; others are unreadable, since a face that was not cropped square was not
    aligned either. Unreadable images are left out of their batch and named in `unreadable`, each once.

    Attributes:
        faults: why images could not be used, by their number; those of an earlier try, or of another process, can be
            added.
        num_resized: images that were scaled; one counts each time it is read.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        *,
        device: str | torch.device,
        channels: Channels,
        augment: AugmentConfig,
        num_threads: int,
        max_unreadable: int,
        reader: Reader | None = None,
    ) -> None:
        self.training_set = training_set
        self.device = torch.device(device)
        self.channels, self.config = channels, augment
        self.num_threads, self.max_unreadable = num_threads, max_unreadable
        self.reader: Reader = reader or PlainReader()
        self.faults: dict[int, str] = {}
        self.num_resized = 0

    def epoch(
        self, order: NDArray[np.int64], *, seed: int, epoch: int, start_batch: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of `order` (num_batches, batch_size) from `start_batch` on.

        Yields:
            float32 (B, 3, 112, 112) in [-1, 1] in the order of `channels`, and labels int64 (B,), both on the
            device. B is the batch size less the unreadable images.

        Raises:
            RunError: more images are unreadable than `max_unreadable`, or a batch has fewer than two that are not.
        """
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode") as pool:
            waiting: deque[_Batch] = deque()
            try:
                for rows in order[start_batch:]:
                    waiting.append(self._begin(pool, rows, seed, epoch))
                    if len(waiting) > AHEAD:
                        yield self._finish(waiting.popleft(), seed, epoch)
                while waiting:
                    yield self._finish(waiting.popleft(), seed, epoch)
            finally:
                pool.shutdown(cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, rows: NDArray[np.int64], seed: int, epoch: int) -> "_Batch":
        """Hand a batch to the threads."""
        pixels = torch.empty(
            len(rows), SIDE, SIDE, 3, dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        )
        samples = torch.from_numpy(rows.copy())
        size = max(_CHUNK, self.reader.num_at_once)
        chunks = [slice(start, start + size) for start in range(0, len(rows), size)]
        parts = [pool.submit(self._fill, pixels.numpy()[chunk], rows[chunk]) for chunk in chunks]
        draws = pool.submit(draw_numbers, samples, config=self.config, seed=seed, epoch=epoch)
        return _Batch(samples, pixels, parts, draws)

    def _fill(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> list[str | bool]:
        """Decode images into `pixels`. For each: whether it was resized, or why it cannot be used."""
        found: list[str | bool] = []
        images = decode_each(self.reader, self.training_set.read, rows.tolist())
        for place, image in zip(pixels, images, strict=True):
            if isinstance(image, OSError):
                found.append(image.strerror or str(image))
                continue
            try:
                place[:], resized = fit(image)
                found.append(resized)
            except DecodeError as error:
                found.append(error.reason)
        return found

    def _finish(self, batch: "_Batch", seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch, augmented on the device."""
        found = [result for part in batch.parts for result in part.result()]
        self._count(batch.samples, found)
        pixels, samples, draws = batch.pixels, batch.samples, batch.draws.result()
        if any(isinstance(result, str) for result in found):
            good = torch.tensor([not isinstance(result, str) for result in found])
            pixels, samples, draws = pixels[good], samples[good], draws[good]
        if len(samples) < _MIN_ROWS:
            # Processes that train together would wait for one that left a batch out.
            raise RunError(
                f"a batch of {self.training_set.name} has {len(samples)} readable images: repair or remove the others "
                f"({'; '.join(self.unreadable[:_SHOWN])})"
            )
        labels = torch.from_numpy(self.training_set.labels[samples.numpy()])
        inputs = augment(
            pixels.to(self.device, non_blocking=True), samples, config=self.config, channels=self.channels,
            seed=seed, epoch=epoch, draws=draws,
        )  # fmt: skip
        return inputs, labels.to(self.device, non_blocking=True)

    def _count(self, samples: torch.Tensor, found: Sequence[str | bool]) -> None:
        """Keep account of what could not be used and of what was resized.

        Raises:
            RunError: too much could not be used.
        """
        for sample, result in zip(samples.tolist(), found, strict=True):
            if isinstance(result, str):
                self.faults[sample] = result
            elif result:
                self._resized(sample)
        if len(self.faults) > self.max_unreadable:
            raise RunError(self.verdict())

    @property
    def unreadable(self) -> list[str]:
        """'key: reason' of every image that could not be used."""
        return [f"{self.training_set.key(sample)}: {reason}" for sample, reason in self.faults.items()]

    def verdict(self) -> str:
        """What to say where they are too many."""
        return (
            f"{len(self.faults):,} images of {self.training_set.name} cannot be used, and the limit is "
            f"{self.max_unreadable:,}: {'; '.join(self.unreadable[:_SHOWN])}: repair or remove them, or raise the limit"
        )

    def _resized(self, sample: int) -> None:
        if not self.num_resized:
            say(
                f"{self.training_set.name}: {self.training_set.key(sample)} is not {SIDE}x{SIDE}; it and others like "
                "it are scaled"
            )
        self.num_resized += 1


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch in work: `parts` fill `pixels`."""

    samples: torch.Tensor
    pixels: torch.Tensor
    parts: list[Future[list[str | bool]]]
    draws: Future[torch.Tensor]


def fit(image: NDArray[np.uint8] | DecodeError) -> tuple[NDArray[np.uint8], bool]:
    """The image uint8 (H, W, 3) at 112x112, and whether it had to be scaled for that.

    Raises:
        DecodeError: it is none, or not square.
    """
    if isinstance(image, DecodeError):
        raise image
    height, width = image.shape[:2]
    if (height, width) == (SIDE, SIDE):
        return image, False
    if height != width:
        raise DecodeError(f"not square but {width}x{height}: align and crop it first")
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)), True
