"""One process's work: it asks for shards, makes them, and says how far it is, in `workers/<name>.json` too.

The next shard is asked for before the last images of the one before are done, so that the networks' batches stay full
from shard to shard.
"""

import json
import math
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
from d2r_fast.engine.marker import STATUSES, WORKERS, dump
from d2r_fast.engine.out import Out
from d2r_fast.engine.remote import Remote

IDLE_S = 0.05
"""Between two questions of a worker that has nothing to do."""
SEND_EVERY_S = 30.0
"""A remote dataset gets the worker's file no more often."""
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

    def shard(self, number: int, counts: dict[str, int], stage_s: dict[str, float]) -> None:
        """Tells of a shard on the disk: its images counted by status, and the seconds by stage since the last."""


class Note:
    """A worker's file. Nobody relies on it but people: `d2r-fast status` shows it."""

    def __init__(self, out: Out, *, name: str, device: str, shards: range | None) -> None:
        self._path, self._remote, self._sent_s = out.folder / WORKERS / f"{name}.json", out.remote, -math.inf
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
        data = dump(self._said)
        with (
            disk_errors(self._path, needed_bytes=len(data)),
            suppress(FileNotFoundError),
        ):  # the folder goes when the dataset is whole
            prepared = temporary(self._path)
            prepared.write_bytes(data)
            prepared.replace(self._path)
        if self._said["state"] != "running" or self._written_s - self._sent_s >= SEND_EVERY_S:
            self._sent_s = self._written_s
            send_note(self._remote, self._path)


def mark_failed(out: Out, name: str, *, num_shards: int) -> None:
    """Say in the file of a worker that died what it can say no more."""
    path = out.folder / WORKERS / f"{name}.json"
    with suppress(OSError, ValueError, RunError):  # a full disk must not stop those who are left
        said = json.loads(path.read_bytes())
        write_atomic(path, dump(said | {"running": [], "failed": num_shards, "state": "failed"}))
        send_note(out.remote, path)


def send_note(remote: Remote | None, path: Path) -> None:
    """Put a worker's file where its dataset is, if that is elsewhere; a store that fails is let be."""
    if remote is not None and path.exists():
        remote.offer(f"{WORKERS}/{path.name}", path.read_bytes())


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
            number, stage_s = marker["shard"], maker.clock.lap()
            note.finish(number, marker["wanted"], stage_s)
            desk.shard(number, {status: marker[status] for status in STATUSES}, stage_s)
