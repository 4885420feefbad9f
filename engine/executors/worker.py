"""One process's work: it asks for shards, makes them, and says how far it is, in `workers/<name>.json` too.

The next shard is asked for before the last images of the one before are done, so that the networks' batches stay full
from shard to shard.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from d2r_fast.engine.errors import RunError
from d2r_fast.engine.executors.hand_out import Answer
from d2r_fast.engine.executors.maker import Maker
from d2r_fast.engine.files import disk_errors, temporary, write_atomic
from d2r_fast.engine.marker import WORKERS, dump

IDLE_S = 0.05
"""Between two questions of a worker that has nothing to do."""
WRITE_EVERY_S = 3.0
"""The worker's file is written no more often, but for its first and last time."""


def worker_name(number: int, shards: range | None) -> str:
    """Name of a worker, which no other that is at work on the dataset has."""
    return f"w{number}" if shards is None else f"{shards.start:05d}-{shards.stop:05d}-w{number}"


class Desk(Protocol):
    """Where a worker gets its shards, and whom it tells what came of them."""

    def take(self) -> Answer:
        """Asks for a shard."""

    def row(self, status: str) -> None:
        """Tells of an image: written, rejected or failed."""

    def shard(self, number: int, images: int, stage_s: dict[str, float]) -> None:
        """Tells of a shard that is on the disk, and the seconds by stage since the last."""


class Note:
    """A worker's file. Nobody relies on it but people: `d2r-fast status` shows it."""

    def __init__(self, folder: Path, *, name: str, device: str, shards: range | None) -> None:
        self._path = folder / WORKERS / f"{name}.json"
        self._running: list[int] = []
        self._stage_s: Counter[str] = Counter()
        self._written_s = 0.0
        now = round(time.time(), 3)
        self._said: dict[str, Any] = {
            "name": name, "host": os.uname().nodename, "pid": os.getpid(), "device": device,
            "shards": None if shards is None else [shards.start, shards.stop], "running": self._running, "done": 0,
            "failed": 0, "images": 0, "stage_s": {}, "started": now, "updated": now, "state": "running",
        }  # fmt: skip

    def __enter__(self) -> Self:
        with disk_errors(self._path):
            self._path.parent.mkdir(exist_ok=True)
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        by_request = isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit)
        self._said["state"] = "finished" if error is None else "stopped" if by_request else "failed"
        with suppress(
            RunError, OSError
        ):  # a full disk must neither hide what went wrong nor undo what is done
            self._write()

    def take(self, number: int) -> None:
        """The worker has a shard."""
        self._running.append(number)
        self.touch()

    def finish(self, number: int, images: int, stage_s: dict[str, float]) -> None:
        """The shard is on the disk."""
        self._running.remove(number)
        self._stage_s.update(stage_s)
        self._said["done"] += 1
        self._said["images"] += images
        self._said["stage_s"] = {stage: round(seconds, 3) for stage, seconds in self._stage_s.items()}
        self.touch()

    def touch(self) -> None:
        """The worker is alive: its file says so now and then."""
        if time.monotonic() - self._written_s >= WRITE_EVERY_S:
            self._write()

    def _write(self) -> None:
        # Not flushed to the disk, as what counts is: after a power cut nobody is at work anyway.
        self._said["updated"], self._written_s = round(time.time(), 3), time.monotonic()
        with (
            disk_errors(self._path),
            suppress(FileNotFoundError),
        ):  # the folder goes when the dataset is whole
            prepared = temporary(self._path)
            prepared.write_bytes(dump(self._said))
            prepared.replace(self._path)


def mark_failed(folder: Path, name: str, *, num_shards: int) -> None:
    """Say in the file of a worker that died what it can say no more."""
    path = folder / WORKERS / f"{name}.json"
    with suppress(OSError, ValueError):
        said = json.loads(path.read_bytes())
        write_atomic(path, dump(said | {"running": [], "failed": num_shards, "state": "failed"}))


def work(maker: Maker, desk: Desk, note: Note) -> None:
    """Makes shards until there are none."""
    while (answer := desk.take()) != "end":
        if isinstance(answer, int):
            _make(maker, desk, note, answer)
        else:
            time.sleep(IDLE_S)
            note.touch()


def _make(maker: Maker, desk: Desk, note: Note, first: int) -> None:
    """Makes shards while more are to be had."""

    def taken() -> Iterator[int]:
        answer: Answer = first
        while isinstance(answer, int):
            note.take(answer)
            yield answer
            answer = desk.take()

    def report(row: Any) -> None:
        desk.row(row.status)
        note.touch()

    with closing(maker.make(taken(), report)) as markers:
        for marker in markers:
            number, images, stage_s = marker["shard"], marker["wanted"], maker.clock.lap()
            note.finish(number, images, stage_s)
            desk.shard(number, images, stage_s)
