"""A run that finds thousands of finished shards: how long it looks, and that it touches none."""

import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard, is_part, state
from d2r_fast.engine.dataset import Dataset

LIMIT_S = 5.0
"""For 10,000 shards."""


def drill(yard: Yard) -> list[Outcome]:
    """10,000 shards."""
    return [scan(yard, num_shards=300 if yard.quick else 10_000)]


def scan(yard: Yard, *, num_shards: int) -> Outcome:
    """Runs a finished dataset again, once whole and once with its last shard gone."""
    source, out = _many(yard, num_shards), yard.folder / "out"
    arguments = yard.translate(source, out, num_threads=2)
    yard.done(arguments, prepare=_do_not_wait_for_disk)
    before = state(out)
    scanned = yard.folder / "seconds"
    ended = yard.done(arguments, prepare=lambda: _clock_opening(scanned))
    seconds, limit_s = float(scanned.read_text()), LIMIT_S * max(num_shards / 10_000, 0.1)
    touched = [name for name, found in state(out).items() if is_part(name) and before.get(name) != found]
    last = f"{num_shards - 1:05d}"
    (out / f"{last}_stats.json").unlink()
    yard.done(arguments)
    after = state(out)
    rewritten = [
        name for name, found in before.items() if is_part(name) and name[:5].isdigit() and name[:5] != last
        and after.get(name) != found
    ]  # fmt: skip
    return Outcome(
        fault=f"{num_shards:,} finished shards",
        wanted=f"found finished within {limit_s:g} s, none written again",
        found=f"{seconds:.2f} s; {len(touched)} files touched, {len(rewritten)} when one shard was missing",
        met=seconds <= limit_s and not touched and not rewritten,
        note=f"inode, time and size of {len(before):,} files; the whole run took {ended.seconds:.1f} s",
    )


def _many(yard: Yard, num_identities: int) -> Path:
    """A source of so many identities, which are links to a few folders."""
    few = yard.source(num_identities=10, images=1, name="few")
    source = yard.folder / "many"
    source.mkdir()
    for identity in range(num_identities):
        (source / f"{identity:05d}").symlink_to(few / f"{identity % 10:05d}")
    return source


def _do_not_wait_for_disk() -> None:
    mock.patch.object(os, "fsync").start()


def _clock_opening(path: Path) -> None:
    """Notes how long the dataset takes to open."""
    whole = Dataset.open

    def timed(*arguments: Any, **settings: Any) -> Dataset:
        begun_s = time.monotonic()
        found = whole(*arguments, **settings)
        path.write_text(str(time.monotonic() - begun_s))
        return found

    mock.patch.object(Dataset, "open", timed).start()
