"""The flow of images through a translation: shards of identities in, shards of encoded images out.

Four things go on at once. Threads ahead read and decode; a thread, on a CPU two so that none of its cores waits for
the end of a batch, gives batches to the networks; another waits for their results; and the threads that decode encode
those too. Shards overlap, so the last images of one do not leave a batch half empty.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2r_fast.engine.ahead import ahead
from d2r_fast.engine.clock import Clock
from d2r_fast.engine.decode import DecodeError
from d2r_fast.engine.encoder import Encode
from d2r_fast.engine.readers.each import decode_each, in_parts
from d2r_fast.engine.readers.reader import Pixels, Reader
from d2r_fast.engine.resumable import resumable
from d2r_fast.engine.source import Identity, Source
from d2r_fast.translation.batches import Decoded, batches
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.images import translate_images
from d2r_fast.translation.method import Size, Unfit
from d2r_fast.translation.opened import Opened
from d2r_fast.translation.shard import Report, Task, TranslatedShard

BATCHES_AHEAD = 3
"""Batches that are decoded before the networks ask for them, and that may wait to be encoded."""
BATCHES_RUNNING = 2
"""Batches that the networks have beside the one that is waited for."""
NOT_FINITE = "not finite"

Members = list[tuple[int, Identity]]
"""Label and identity of a shard's members, in order."""


@dataclass(frozen=True)
class Stages:
    """What a run works with: opened once, shared by all shards.

    Attributes:
        source: where images are read.
        opened: the method's networks, by size of image.
        recipe: seed and encoding.
        clock: told how long each stage takes.
        batch_size: images that go through the networks together.
        num_threads: that decode and encode.
        reader: who decodes.
        encode: who encodes.
    """

    source: Source
    opened: Opened
    recipe: TranslateRecipe
    clock: Clock
    batch_size: int
    num_threads: int
    reader: Reader
    encode: Encode


@dataclass(frozen=True, slots=True)
class Unreadable:
    task: Task
    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Launched:
    """A batch on its way: pixels (B, H, W, 3) uint8 and which are finite (B,), on the CPU once `ready` has passed."""

    batch: list[Decoded]
    pixels: Tensor
    finite: Tensor
    ready: torch.cuda.Event | None


@dataclass(frozen=True, slots=True)
class _Translated:
    """An image that went through; `pixels` is None where it came out not finite."""

    source: Decoded
    pixels: NDArray[np.uint8] | None


class Flow:
    """Makes shards. Iterating gives each as it is complete, in about their order; `close` after use."""

    def __init__(self, shards: Iterable[tuple[int, Members]], stages: Stages, report: Report) -> None:
        self._unopened, self._stages, self._report = shards, stages, report
        self._device = torch.device(stages.opened.device)
        self._shards: dict[int, TranslatedShard] = {}
        self._unfit: dict[Size, str | None] = {}
        self._helpers = ThreadPoolExecutor(stages.num_threads, "image")
        self._runners = ThreadPoolExecutor(2 if self._device.type == "cpu" else 1, "translate")
        self._fetcher = ThreadPoolExecutor(1, "fetch")

    def __iter__(self) -> Iterator[TranslatedShard]:
        depth = BATCHES_AHEAD * self._stages.batch_size
        len_part = self._stages.reader.num_at_once
        parts = in_parts(self._tasks(), len_part)
        read = chain.from_iterable(ahead(self._helpers, self._read, parts, depth=-(-depth // len_part)))
        launched = ahead(
            self._runners, self._launch, batches(self._usable(read), self._stages.batch_size), depth=BATCHES_RUNNING
        )  # fmt: skip
        fetched = ahead(self._fetcher, self._fetch, launched, depth=BATCHES_RUNNING - 1)
        images = ahead(self._helpers, self._encode, chain.from_iterable(fetched), depth=depth)
        for translated, image in images:
            self._settle(translated, image)
            yield from self._complete()
        yield from self._complete()
        assert not self._shards, "every image has met its fate"

    def close(self) -> None:
        """Lets the threads end with what they are doing; what waits is forgotten."""
        for pool in (self._helpers, self._runners, self._fetcher):
            pool.shutdown(wait=False, cancel_futures=True)

    def _tasks(self) -> Iterator[Task]:
        """All images, opening each shard as its turn comes."""
        for number, members in self._unopened:
            shard = TranslatedShard(number, self._stages.recipe.seed, self._report)
            tasks = [task for label, identity in members for task in shard.add(label, identity)]
            self._shards[number] = shard
            yield from tasks

    def _read(self, tasks: Sequence[Task]) -> list[Decoded | Unreadable]:
        with self._stages.clock("decode"):
            return read_all(self._stages, tasks)

    def _usable(self, found: Iterable[Decoded | Unreadable]) -> Iterator[Decoded]:
        """Images that can be translated; the others meet their fate here."""
        for image in found:
            shard = self._shards[image.task.shard]
            if isinstance(image, Unreadable):
                shard.fail(image.task, stage="decode", error=image.error, reason=image.reason, size=None)
            elif (reason := self._why_not(image.size)) is not None:
                shard.fail(
                    image.task, stage="translate", error=Unfit.__name__, reason=reason, size=image.size
                )
            else:
                yield image

    def _why_not(self, size: Size) -> str | None:
        if size not in self._unfit:
            self._unfit[size] = why_not(self._stages.opened, size)
        return self._unfit[size]

    def _launch(self, batch: list[Decoded]) -> _Launched:
        """Gives a batch to the networks. On CUDA it is not waited for."""
        opened = self._stages.opened
        with self._stages.clock.together("translate"), resumable(image.task.key for image in batch):
            networks = opened(batch[0].size)
            images = self._to_device(torch.from_numpy(np.stack([image.pixels for image in batch])))
            keys = torch.tensor([[image.task.identity_key, image.task.image] for image in batch])
            pixels, finite = translate_images(opened.method, networks, images, keys)
            return _Launched(batch, *self._to_host(pixels, finite))

    def _to_device(self, values: Tensor) -> Tensor:
        return (
            values if self._device.type == "cpu" else values.pin_memory().to(self._device, non_blocking=True)
        )

    def _to_host(self, pixels: Tensor, finite: Tensor) -> tuple[Tensor, Tensor, torch.cuda.Event | None]:
        if self._device.type == "cpu":
            return pixels, finite, None
        copies = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in (pixels, finite)]
        for copy, value in zip(copies, (pixels, finite), strict=True):
            copy.copy_(value, non_blocking=True)
        return copies[0], copies[1], torch.cuda.current_stream(self._device).record_event()

    def _fetch(self, launched: _Launched) -> list[_Translated]:
        """Waits for a batch; its images."""
        with self._stages.clock.together("translate"):
            if launched.ready is not None:
                launched.ready.synchronize()
        images, finite = launched.pixels.numpy(), launched.finite.tolist()
        return [
            _Translated(source, image if good else None)
            for source, image, good in zip(launched.batch, images, finite, strict=True)
        ]

    def _encode(self, translated: _Translated) -> tuple[_Translated, bytes | None]:
        with self._stages.clock("encode"):
            if translated.pixels is None:
                return translated, None
            return translated, self._stages.encode(translated.pixels)

    def _settle(self, translated: _Translated, image: bytes | None) -> None:
        task, size = translated.source.task, translated.source.size
        shard = self._shards[task.shard]
        if image is None:
            shard.fail(task, stage="translate", error="NotFinite", reason=NOT_FINITE, size=size)
        else:
            shard.keep(task, image, size)

    def _complete(self) -> Iterator[TranslatedShard]:
        """The shards whose images are all settled."""
        for shard in [shard for shard in self._shards.values() if shard.complete]:
            del self._shards[shard.number]
            yield shard


def read_all(stages: Stages, tasks: Sequence[Task]) -> list[Decoded | Unreadable]:
    """Images of the source, or what is wrong with them."""
    images = decode_each(stages.reader, stages.source.read, [task.source for task in tasks], min_side=1)
    return [_judge(task, image) for task, image in zip(tasks, images, strict=True)]


def _judge(task: Task, image: Pixels | DecodeError | OSError) -> Decoded | Unreadable:
    if isinstance(image, DecodeError):
        return Unreadable(task, type(image).__name__, image.reason)
    if isinstance(image, OSError):
        return Unreadable(task, type(image).__name__, image.strerror or "cannot be read")
    return Decoded(task, image)


def why_not(opened: Opened, size: Size) -> str | None:
    """Why images of this size cannot be translated; None where they can."""
    try:
        opened.method.check(size)
    except Unfit as error:
        return error.reason
    return None
