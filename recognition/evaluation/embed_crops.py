"""Embed the crops of a benchmark: read ahead in threads, the network at once, mirror images added.

Files that are not there are found before a network runs, and once too many images are unusable it runs no more.

An embedding is that of the crop plus that of its mirror image, neither of them normalised (InsightFace and
AdaFace do the same in different words).
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.backends.threads import LoneThreads
from d2r_fast.engine.console import Meter, say
from d2r_fast.engine.decode import DecodeError
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.readers.each import in_parts
from d2r_fast.engine.readers.plain import PlainReader
from d2r_fast.engine.readers.reader import Reader
from d2r_fast.recognition.evaluation.crops import Crops, LooseCrops

AHEAD = 2
"""Batches that are read while one is embedded; with it they bound the memory."""
_SHOWN = 3
ZERO = "its embedding is zero"

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Crops uint8 (N, 112, 112, 3) RGB -> embeddings float32 (N, D), not normalised."""


@dataclass(frozen=True)
class Embedded:
    """`embeddings` (N, D), not normalised, rows of 0 where `readable` bool (N,) says that there is none to be had."""

    embeddings: NDArray[np.floating]
    readable: NDArray[np.bool_]

    @property
    def num_unreadable(self) -> int:
        return int((~self.readable).sum())


def embed_crops(
    crops: Crops, embed: Embed, *, title: str, flip: bool = True, batch_size: int = 128,
    max_unreadable: int = 0, dtype: type[np.float32] | type[np.float64] = np.float32, leave_zeros: bool = False,
    reader: Reader | None = None,
) -> Embedded:  # fmt: skip
    """Embeddings of all crops, in their order; `dtype` is what mirror images are added in.

    Args:
        crops: where the images come from.
        embed: the network.
        title: what to call them in messages.
        flip: add the embedding of the mirror image.
        batch_size: crops that are embedded together.
        max_unreadable: images to do without. Of more than these all are counted, and no more of them embedded.
        dtype: of the result.
        leave_zeros: do without images whose embedding is zero too.
        reader: who decodes and aligns; the plain one by default.

    Raises:
        UserError: more than `max_unreadable` images cannot be used; the line counts them and names the first.
        RunError: an embedding that is not finite, or is zero and may not be.
    """
    _check_present(crops, title, max_unreadable)
    embeddings = np.zeros((len(crops), 0), dtype)
    readable = np.zeros(len(crops), bool)
    unreadable: list[str] = []
    with Meter(title, total=len(crops)) as meter:
        for start, batch in _batches(crops, batch_size, reader or PlainReader()):
            found = [crop for crop in batch if not isinstance(crop, DecodeError)]
            rows = start + np.flatnonzero([not isinstance(crop, DecodeError) for crop in batch])
            unreadable += [
                f"{crops.name(start + index)}: {crop}"
                for index, crop in enumerate(batch)
                if isinstance(crop, DecodeError)
            ]
            if found and len(unreadable) <= max_unreadable:
                part = _sums(np.stack(found), embed, flip=flip, dtype=dtype)
                whole = _check(part, rows, crops, leave_zeros=leave_zeros)
                unreadable += [f"{crops.name(int(row))}: {ZERO}" for row in rows[~whole]]
                if not embeddings.size:
                    embeddings = np.zeros((len(crops), part.shape[1]), dtype)
                embeddings[rows[whole]], readable[rows[whole]] = part[whole], True
            meter.advance(len(batch), note=f"{len(unreadable)} unusable" if unreadable else "")
    _judge(title, unreadable, len(crops), max_unreadable)
    return Embedded(embeddings, readable)


def _check_present(crops: Crops, title: str, limit: int) -> None:
    """Find files that are missing by their folders' listings: hours of work may stand before the first of them."""
    if not isinstance(crops, LooseCrops):
        return
    missing = [f"{crops.name(row)}: {os.strerror(errno.ENOENT)}" for row in crops.missing()]
    if len(missing) > limit:
        _judge(title, missing, len(crops), limit)


def _sums(
    crops: NDArray[np.uint8], embed: Embed, *, flip: bool, dtype: type[np.floating]
) -> NDArray[np.floating]:
    if not flip:
        return embed(crops).astype(dtype)
    both = embed(np.concatenate([crops, crops[:, :, ::-1]])).astype(dtype, copy=False)
    total: NDArray[np.floating] = both[: len(crops)] + both[len(crops) :]
    return total


def _check(
    embeddings: NDArray[np.floating], rows: NDArray[np.int64], crops: Crops, *, leave_zeros: bool
) -> NDArray[np.bool_]:
    """Which of the rows (n,) have a direction: all that are not zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    for bad, state in ((~np.isfinite(norms), "not finite"), (norms == 0, "zero")):
        if bad.any() and not (leave_zeros and state == "zero"):
            raise RunError(
                f"the embedding of {crops.name(int(rows[np.argmax(bad)]))} is {state}: the network is damaged, or "
                "needs --precision fp32"
            )
    nonzero: NDArray[np.bool_] = norms > 0
    return nonzero


def _judge(title: str, unreadable: list[str], num_crops: int, limit: int) -> None:
    if not unreadable:
        return
    named = "; ".join(unreadable[:_SHOWN]) + ("; ..." if len(unreadable) > _SHOWN else "")
    if len(unreadable) > limit or len(unreadable) == num_crops:
        raise UserError(
            f"{title}: {len(unreadable):,} of {num_crops:,} images cannot be used and {limit} may be left out "
            f"({named}): get them again, or raise --max-unreadable"
        )
    say(f"{title}: {len(unreadable):,} of {num_crops:,} images cannot be used and are left out ({named})")


_Read = NDArray[np.uint8] | DecodeError


def _batches(crops: Crops, size: int, reader: Reader) -> Iterator[tuple[int, list[_Read]]]:
    """Start and content of each batch, read in threads ahead of use."""
    pending: deque[tuple[int, list[Future[list[_Read]]]]] = deque()
    readers = _Readers(len(os.sched_getaffinity(0)))
    try:
        for start in range(0, len(crops), size):
            rows = range(start, min(start + size, len(crops)))
            parts = in_parts(rows, reader.num_at_once)
            pending.append((start, [readers.submit(crops, part, reader) for part in parts]))
            if len(pending) > AHEAD:
                yield _collect(*pending.popleft())
        while pending:
            yield _collect(*pending.popleft())
    finally:
        readers.close()


class _Readers(LoneThreads):
    """A thread per core; torch aligns in each alone, as several threads of several each would stand in line."""

    def submit(self, crops: Crops, rows: tuple[int, ...], reader: Reader) -> Future[list[_Read]]:
        return self._pool.submit(crops.read_each, rows, reader)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _collect(start: int, futures: list[Future[list[_Read]]]) -> tuple[int, list[_Read]]:
    return start, [crop for future in futures for crop in future.result()]
