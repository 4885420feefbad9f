"""Two folders of images that do not pair: which of them a step takes, and their crops, decoded ahead of their use.

    source, target = Folder("source", renders), Folder("target", photographs)
    loader = UnpairedLoader(
        source, target, recipe, num_steps=..., sources=1, device=..., num_threads=2, max_unreadable=100
    )
    for source, target in loader.batches(start=0):
        ...

A step's images and crops are a function of (seed, step) alone, whichever thread was first and wherever a run began.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from d2r_fast.engine.decode import DecodeError, decode
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.source import Image as File
from d2r_fast.engine.source import Source, fingerprint, open_images
from d2r_fast.translation.training.config import TransferRecipe
from d2r_fast.translation.training.seeds import words

AHEAD = 4
"""Steps in work: enough that none waits for one slow image."""
CACHE_BYTES = 512 * 2**20
"""Scaled images are kept while they fit in here: 2,000 of 286 pixels, 30,000 of 72."""
_SHOWN = 5


class Folder:
    """The images of one folder in natural order, whoever they show.

    Args:
        option: what the folder is called on the command line.
        path: a folder of images, or of folders of images, which may be identities; their names are not looked at.

    Raises:
        UserError: there is none, or it holds no images.
    """

    def __init__(self, option: str, path: Path) -> None:
        self.option, self.path = option, path
        self._source: Source = open_images(path, option=option)
        counts = [len(identity.images) for identity in self._source.identities]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def file(self, number: int) -> File:
        """The image of this number."""
        place = int(np.searchsorted(self._ends, number, side="right"))
        return self._source.identities[place].images[number - int(self._ends[place])]

    def read(self, number: int) -> bytes:
        """Its bytes.

        Raises:
            OSError: it cannot be read.
        """
        return self._source.read(self.file(number))

    def describe(self) -> dict[str, object]:
        """What decides which images a run sees, by names and not by where they lie."""
        return {"num_images": len(self), "fingerprint": fingerprint(self._source.identities)}

    def check(self, *, batch_size: int, out: Path) -> None:
        """See that a batch can be filled, and that the run does not land among the images.

        Raises:
            UserError: it cannot, or `out` lies in the folder, whose images its grids would become.
        """
        if out.resolve().is_relative_to(self.path.resolve()):
            raise UserError(
                f"out {out} lies in the {self.option} {self.path}, where its grids would become images to train on: "
                "give a folder elsewhere"
            )
        if len(self) < batch_size:
            raise UserError(
                f"{self.option} {self.path} has {len(self)} images, and a step takes {batch_size}: give a batch_size "
                "of at most that, or more images"
            )


class Order:
    """Which images each step takes.

    An epoch has as many images as the larger folder, and goes through the source in an order of its own, again from
    the start where it is the smaller one. DECENT and UNSB draw each target image from all of them, VSAIT goes through
    the target as through the source.

    Args:
        recipe: method, batch size and seed.
        num_source, num_target: images of each folder.
        sources: batches of source images that a step takes.
    """

    def __init__(self, recipe: TransferRecipe, *, num_source: int, num_target: int, sources: int) -> None:
        self.seed, self.batch_size, self.sources = recipe.seed, recipe.batch_size, sources
        self.num_source, self.num_target = num_source, num_target
        self.draws_target = recipe.method != "vsait"
        self.steps_per_epoch = max(num_source, num_target) // recipe.batch_size
        self._shuffled = lru_cache(maxsize=sources + 2)(self._shuffle)

    def source(self, step: int) -> NDArray[np.int64]:
        """Numbers of the source images: (sources * batch_size,)."""
        parts = [
            self._part(f"source {number}", step, modulo=self.num_source) for number in range(self.sources)
        ]
        return np.concatenate(parts)

    def target(self, step: int) -> NDArray[np.int64]:
        """Numbers of the target images: (batch_size,)."""
        if not self.draws_target:
            return self._part("target", step, modulo=self.num_target)
        drawn = words(self.seed, f"target of step {step}").random_raw(self.batch_size)
        return (drawn % np.uint64(self.num_target)).astype(np.int64)

    def _part(self, stream: str, step: int, *, modulo: int) -> NDArray[np.int64]:
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = self._shuffled(stream, epoch)
        return order[batch * self.batch_size : (batch + 1) * self.batch_size] % modulo

    def _shuffle(self, stream: str, epoch: int) -> NDArray[np.int64]:
        random = words(self.seed, f"order of {stream} in epoch {epoch}")
        return np.argsort(random.random_raw(max(self.num_source, self.num_target)), kind="stable")


@dataclass(frozen=True, slots=True)
class Cut:
    """How an image becomes a training crop: scaled to `scaled` pixels a side, cut at (left, top), mirrored or not."""

    scaled: int
    left: int
    top: int
    mirrored: bool


def cuts(recipe: TransferRecipe, step: int, *, num: int, scaled: int) -> list[Cut]:
    """The crops of a step's images, source first."""
    drawn = words(recipe.seed, f"crops of step {step}").random_raw(3 * num).reshape(num, 3)
    room = np.uint64(scaled - recipe.size + 1)
    return [
        Cut(scaled, int(left % room), int(top % room), recipe.flip and bool(flip >> np.uint64(63)))
        for left, top, flip in drawn
    ]


@dataclass(frozen=True, slots=True)
class _Row:
    """One image of a step: its pixels once they are there, and what could not be read on the way to it."""

    pixels: NDArray[np.uint8]
    faults: dict[str, str]


class UnpairedLoader:
    """Reads, decodes, scales and crops, some steps ahead.

    Images are scaled to a square, by bicubic resampling as DECENT's and UNSB's loaders do it, VSAIT's by bilinear;
    smaller ones are enlarged. In place of an unreadable image the next readable one of its folder is taken, so that
    batches stay whole.

    Attributes:
        faults: why images could not be used, by name; those of an earlier try can be added.
    """

    def __init__(
        self, source: Folder, target: Folder, recipe: TransferRecipe, *, num_steps: int, sources: int,
        device: torch.device, num_threads: int, max_unreadable: int,
    ) -> None:  # fmt: skip
        self.recipe, self.num_steps, self.device = recipe, num_steps, device
        self.folders = {"source": source, "target": target}
        self.order = Order(recipe, num_source=len(source), num_target=len(target), sources=sources)
        self.num_threads, self.max_unreadable = num_threads, max_unreadable
        self.faults: dict[str, str] = {}
        bilinear = recipe.method == "vsait"
        self._filter = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
        self._kept: dict[tuple[str, int, int], NDArray[np.uint8]] = {}
        self._kept_bytes = 0

    def batches(self, *, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Source and target images of every step from `start` on, as Objective.step takes them.

        Raises:
            RunError: more images are unreadable than `max_unreadable`.
        """
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="decode") as pool:
            waiting: deque[list[Future[_Row]]] = deque()
            try:
                for step in range(start, self.num_steps):
                    waiting.append(self._begin(pool, step))
                    if len(waiting) > AHEAD:
                        yield self._finish(waiting.popleft())
                while waiting:
                    yield self._finish(waiting.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def examples(self, num: int) -> tuple[Tensor, Tensor]:
        """Images of each folder, evenly spread over it and scaled whole: two of (num, 3, S, S), for a person to see.

        Raises:
            RunError: as `batches` does.
        """
        cut = Cut(self.recipe.size, 0, 0, mirrored=False)
        both = []
        for side, folder in self.folders.items():
            rows = [self._row(side, number * len(folder) // num, cut) for number in range(num)]
            both.append(self._images([row.pixels for row in rows]))
        return both[0], both[1]

    def scaled_size(self, step: int) -> int:
        """Side that images are scaled to in this step: DECENT and UNSB no longer crop while the learning rate falls."""
        if self.recipe.method == "vsait":
            return self.recipe.scaled_size
        full, decay = self.recipe.epochs_of_two_parts
        falling = step * (full + decay) // self.num_steps >= full
        return self.recipe.size if falling else self.recipe.scaled_size

    def _begin(self, pool: ThreadPoolExecutor, step: int) -> list[Future[_Row]]:
        wanted = [("source", int(number)) for number in self.order.source(step)]
        wanted += [("target", int(number)) for number in self.order.target(step)]
        drawn = cuts(self.recipe, step, num=len(wanted), scaled=self.scaled_size(step))
        return [
            pool.submit(self._row, side, number, cut)
            for (side, number), cut in zip(wanted, drawn, strict=True)
        ]

    def _finish(self, waiting: list[Future[_Row]]) -> tuple[Tensor, Tensor]:
        rows = [future.result() for future in waiting]
        for row in rows:
            self.faults |= row.faults
        if len(self.faults) > self.max_unreadable:
            raise RunError(self.verdict(self.faults))
        images = self._images([row.pixels for row in rows])
        num_source = len(rows) - self.recipe.batch_size
        return images[:num_source], images[num_source:]

    def _images(self, pixels: list[NDArray[np.uint8]]) -> Tensor:
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        placed = stacked.to(self.device, non_blocking=True).float()
        return placed.div_(255).sub_(0.5).div_(0.5)

    def _row(self, side: str, number: int, cut: Cut) -> _Row:
        """The crop of an image, or of the next one that can be read."""
        folder, faults = self.folders[side], dict[str, str]()
        for offset in range(len(folder)):
            taken = (number + offset) % len(folder)
            try:
                return _Row(_crop(self._scaled(side, taken, cut.scaled), cut, self.recipe.size), faults)
            except DecodeError as error:
                faults[str(folder.file(taken).path)] = error.reason
            except OSError as error:
                faults[str(folder.file(taken).path)] = error.strerror or str(error)
            if len(faults) > self.max_unreadable:
                raise RunError(self.verdict(faults))
        raise RunError(f"{side} {folder.path} has no image that can be used: {_named(faults)}: repair them")

    def _scaled(self, side: str, number: int, scaled: int) -> NDArray[np.uint8]:
        key = (side, number, scaled)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        image = Image.fromarray(decode(self.folders[side].read(number)))
        pixels = np.asarray(image.resize((scaled, scaled), self._filter))
        if self._kept_bytes + pixels.nbytes <= CACHE_BYTES:
            self._kept[key] = pixels
            self._kept_bytes += pixels.nbytes
        return pixels

    def verdict(self, faults: dict[str, str]) -> str:
        """What to say where too many images are unreadable."""
        return (
            f"{len(faults):,} images cannot be used, and the limit is {self.max_unreadable:,}: {_named(faults)}: "
            "repair them, or raise max_unreadable; without them it is another run, for another folder"
        )


def _named(faults: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in list(faults.items())[:_SHOWN])


def _crop(pixels: NDArray[np.uint8], cut: Cut, size: int) -> NDArray[np.uint8]:
    crop = pixels[cut.top : cut.top + size, cut.left : cut.left + size]
    return crop[:, ::-1] if cut.mirrored else crop
