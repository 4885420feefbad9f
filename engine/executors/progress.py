"""What a run says while it makes shards: its log, and a meter for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from d2r_fast.engine.console import Meter, say
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.executors.maker import Task


class Progress:
    """Of the shards of a dataset that are not finished, made by `num_workers`."""

    def __init__(self, task: Task, dataset: Dataset, *, num_workers: int) -> None:
        self._dataset, self._num_workers = dataset, num_workers
        self._tally: Counter[str] = Counter()
        self._open: dict[str, Counter[str]] = {}
        """By worker: images told of whose shards are not finished."""
        self._begun = False
        left = sum(task.num_images(shard) for shard in dataset.unfinished)
        self._meter = Meter(task.name, total=task.total, already=task.total - left)

    def __enter__(self) -> Self:
        self._meter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._meter.__exit__(kind, error, trace)

    def ready(self, worker: str, about: dict[str, Any]) -> None:
        """A worker's networks are open; with the first one's the folder is the dataset's from now on."""
        if not self._begun:
            self._begin(about)
        if self._num_workers > 1:
            self._dataset.log("worker", worker=worker, device=about["device"])

    def _begin(self, about: dict[str, Any]) -> None:
        self._begun = True
        self._dataset.begin()
        self._dataset.log(
            "start", **about, shards=len(self._dataset.unfinished), workers=self._num_workers
        )  # fmt: skip

    def rows(self, worker: str, statuses: Mapping[str, int]) -> None:
        """So many images of a worker's were written, rejected, failed."""
        self._open.setdefault(worker, Counter()).update(statuses)
        self._count(statuses)

    def _count(self, statuses: Mapping[str, int]) -> None:
        self._tally.update(statuses)
        note = ", ".join(f"{count} {status}" for status, count in sorted(self._tally.items()) if count)
        self._meter.advance(sum(statuses.values()), note=note)

    def shard(self, worker: str, number: int, counts: Mapping[str, int], stage_s: dict[str, float]) -> None:
        """A shard is on the disk, its images counted by status."""
        self._open.setdefault(worker, Counter()).subtract(counts)
        self._dataset.log("shard", shard=number, stage_s=stage_s, images=sum(counts.values()), worker=worker)

    def lost(self, worker: str, why: str, shards: Sequence[int], *, left: int) -> None:
        """A worker is gone, and `left` others are there to make what it had: those images will be told of again."""
        told = self._open.pop(worker, Counter())
        self._count({status: -count for status, count in told.items()})
        had = f"; {name_shards(shards)} will be made by another" if shards and left else ""
        say(f"worker {worker} {why}{had}")
        if self._begun:
            self._dataset.log("lost", worker=worker, why=why, shards=list(shards))


def name_shards(shards: Sequence[int]) -> str:
    """As `shard 00003`, or `shards 00003 and 00004`."""
    names = [f"{shard:05d}" for shard in shards]
    return f"shard {names[0]}" if len(names) == 1 else f"shards {', '.join(names[:-1])} and {names[-1]}"
