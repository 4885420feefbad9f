"""Drills of engines that are broken on purpose.

    python drillbreaker.py FOLDER

Prints, as JSON, which drills said that all was well: by the fault that was built in.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.bench.drill import kills, resume, second, soak
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard
from d2r_fast.engine import dataset, files, write


@contextmanager
def open_in_sight(path: Path, *, needed_bytes: int | None = None) -> Iterator[files.HashingFile]:
    """A file that is seen before it is whole."""
    with path.open("wb") as file:
        hashing = files.HashingFile(file)
        yield hashing
        time.sleep(0.02)


def wait_for_a_shard(out: Path, seconds: float) -> None:
    """Lets a run write, however long it takes to get there on a machine with much to do."""
    deadline_s = time.monotonic() + 60
    before = set(out.glob("0*"))
    while before == set(out.glob("0*")) and not (out / "_SUCCESS").exists() and time.monotonic() < deadline_s:
        time.sleep(0.001)


def visible(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kills, "_pause", wait_for_a_shard)
    patch.setattr(files, "open_atomic", open_in_sight)
    patch.setattr(write, "open_atomic", open_in_sight)


def unlocked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dataset, "take_lock", lambda folder, *_: os.open(folder / ".lock", os.O_RDWR | os.O_CREAT))


def careless(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dataset, "_refuse_other", lambda *_: None)
    changes = resume._changes
    patch.setattr(resume, "_changes", lambda *given: islice(changes(*given), 1))  # one will do


def tiring(patch: pytest.MonkeyPatch) -> None:
    """Every file takes longer than the last."""
    opened, open_atomic = count(), files.open_atomic

    def open_later(*given: Any, **named: Any) -> Any:
        time.sleep(0.004 * next(opened))
        return open_atomic(*given, **named)

    patch.setattr(write, "open_atomic", open_later)
    patch.setattr(soak, "LOOKS", 20)
    patch.setattr(soak, "SETTLED", 5)


def keeps_its_rate(yard: Yard) -> list[Outcome]:
    memory, rate = soak.soak(yard, seconds=6)
    assert "MiB, status 143" in memory.found, memory
    return [rate]


Break = Callable[[pytest.MonkeyPatch], None]
DRILLS: dict[str, tuple[Break, Callable[[Yard], list[Outcome]]]] = {
    "files seen unfinished": (visible, lambda yard: [kills.kill(yard, num_kills=3, num_shards=4)]),
    "no lock": (unlocked, lambda yard: [second.second(yard, times=1)]),
    "any resume": (careless, lambda yard: resume.drill(yard)),
    "a falling rate": (tiring, keeps_its_rate),
    "nothing": (lambda patch: None, lambda yard: [kills.kill(yard, num_kills=3, num_shards=4)]),
}


def main() -> None:
    yard = Yard.open(Path(sys.argv[1]), quick=True, seed=0, soak_s=0.0)
    said = {}
    for name, (break_, drill) in DRILLS.items():
        with pytest.MonkeyPatch.context() as patch:
            break_(patch)
            try:
                said[name] = all(outcome.met for outcome in drill(yard.part("drill")))
            except AssertionError as error:  # the drill broke off, as where a run finds half of its own file
                said[name] = False
                print(f"{name}: {error}", file=sys.stderr)
        shutil.rmtree(yard.folder / "drill")
    print(json.dumps(said))


if __name__ == "__main__":
    main()
