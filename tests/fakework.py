"""Shards without networks for executors: fakedata's, made in as many seconds as a test wants, by workers that may die.

    python -m tests.fakework OUT SECONDS NUM_WORKERS SHARDS DIE

makes a dataset in a process of its own, for tests that stop it from outside. SHARDS is A:B or nothing. DIE names
shards that kill their worker the first time, as 3,4.
"""

import os
import signal
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from d2r_fast.engine.clock import Clock
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.executors.maker import Maker, Report, Task
from d2r_fast.engine.executors.place import Machine
from d2r_fast.engine.out import Out
from d2r_fast.engine.write_behind import write_behind

from .fakedata import make_document, make_rows, write

NUM_SHARDS = 6


class FakeMaker:
    """Takes its time over each shard, and asks for the next one before the last is out, as the flows do."""

    def __init__(
        self, out: Path | Out, document: dict[str, Any], seconds: float, deaths: Sequence[int]
    ) -> None:
        self.out = out if isinstance(out, Out) else Out(out)
        self.document, self.seconds, self.deaths = document, seconds, deaths
        self.clock = Clock()

    def about(self) -> dict[str, Any]:
        return {"source": "nowhere", "device": "cpu", "batch_size": 1}

    def make(self, shards: Iterable[int], report: Report) -> Generator[dict[str, Any]]:
        def made() -> Iterator[int]:
            following = iter(shards)
            number = next(following, None)
            while number is not None:
                after = next(following, None)  # while the one before is in work
                self._make(number, report)
                yield number
                number = after

        def deliver(shard: int) -> dict[str, Any]:
            marker = write(self.out.folder, self.document, shard)
            self.out.deliver(marker)
            return marker

        with closing(write_behind(made(), deliver)) as markers:
            yield from markers

    def _make(self, number: int, report: Report) -> None:
        with self.clock("sleep"):
            time.sleep(self.seconds)
        if number in self.deaths:
            self._die_once(number)
        for row in make_rows(self.document, number)["rows"]:
            report(row)

    def _die_once(self, number: int) -> None:
        if _first_time(self.out.folder.with_name(f"died {number}")):
            os.kill(os.getpid(), signal.SIGKILL)


def _first_time(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@contextmanager
def open_fake(
    out: Path | Out,
    document: dict[str, Any],
    seconds: float,
    deaths: Sequence[int],
    crew: int,
    device: str,
    pending: Sequence[int],
) -> Iterator[FakeMaker]:
    _wait_for_all(out.folder if isinstance(out, Out) else out, crew)
    yield FakeMaker(out, document, seconds, deaths)


def _wait_for_all(out: Path, crew: int) -> None:
    """Lets no worker begin before all have been started, so that each gets a part."""
    ready = out.with_name(f"{out.name} ready")
    ready.mkdir(exist_ok=True)
    (ready / str(os.getpid())).touch()
    while len(list(ready.iterdir())) < crew:
        time.sleep(0.01)


class DyingMaker:
    """A maker whose process is killed where it is to make a shard while the file `doomed` is there: that goes too."""

    def __init__(self, maker: Maker, doomed: Path, shard: int) -> None:
        self.maker, self.doomed, self.shard, self.clock = maker, doomed, shard, maker.clock

    def about(self) -> dict[str, Any]:
        return self.maker.about()

    def make(self, shards: Iterable[int], report: Report) -> Generator[dict[str, Any]]:
        def watched() -> Iterator[int]:
            for number in shards:
                if number == self.shard and self.doomed.exists():
                    self.doomed.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield number

        yield from self.maker.make(watched(), report)


@contextmanager
def open_dying(module: str, doomed: Path, shard: int, *settings: Any) -> Iterator[DyingMaker]:
    """What a command's `open_maker` opens in another process, with a death built in."""
    with import_module(module).open_maker(*settings) as maker:
        yield DyingMaker(maker, doomed, shard)


@contextmanager
def open_killer(device: str, pending: Sequence[int]) -> Iterator[FakeMaker]:
    """A worker that dies while it opens its networks."""
    os.kill(os.getpid(), signal.SIGSEGV)
    yield FakeMaker(Path(), {}, 0, ())


@contextmanager
def open_failing(device: str, pending: Sequence[int]) -> Iterator[FakeMaker]:
    """A worker that cannot open its networks."""
    raise RunError("the fake network cannot be opened")
    yield


def document_of(num_shards: int = NUM_SHARDS, **changes: Any) -> dict[str, Any]:
    return make_document(num_identities=num_shards, per_shard=1, **{"format": "imagefolder"} | changes)


def fake_task(
    out: Path | Out, document: dict[str, Any], *, crew: int, seconds: float = 0.0, deaths: Sequence[int] = ()
) -> Task:
    images = document["plan"]["images_per_identity"] * document["plan"]["identities_per_shard"]
    return Task(
        "make", partial(open_fake, out, document, seconds, tuple(deaths), crew), lambda shard: images,
        total=document["plan"]["wanted"],
    )  # fmt: skip


def make(
    out: Path,
    document: dict[str, Any],
    *,
    num_workers: int,
    shards: range | None = None,
    seconds: float = 0.0,
    deaths: Sequence[int] = (),
) -> dict[str, int]:
    """Make a dataset on this machine."""
    with Dataset.open(out, document, shards=shards) as dataset:
        if dataset.unfinished:
            task = fake_task(out, document, crew=num_workers, seconds=seconds, deaths=deaths)
            Machine(("cpu",) * num_workers).run(task, dataset)
        return dataset.finish()


@dataclass(frozen=True)
class Order:
    """The run that a command line asks for."""

    arguments: list[str]

    def run(self) -> int:
        out, seconds, num_workers, span, deaths = self.arguments
        shards = range(*map(int, span.split(":"))) if span else None
        doomed = [int(number) for number in deaths.split(",") if number]
        make(
            Path(out), document_of(), num_workers=int(num_workers), shards=shards, seconds=float(seconds), deaths=doomed
        )  # fmt: skip
        return 0


if __name__ == "__main__":
    from d2r_fast.engine import cli

    cli.parse = Order  # type: ignore[assignment]  # with the command line's own signals and statuses
    cli.main()
