"""One long run: whether its memory grows or its rate falls.

A machine that others use too changes by a tenth from minute to minute, even for work that touches neither disk nor much
memory. So the long run stands still every few seconds while a short one, always the same and always new, goes from its
start to its end; the long one's rate counts in shards per short run, which leaves the machine out of it. Images per
second are told beside it.
"""

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from d2r_fast.bench.drill.child import Child
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard

MOST_DRIFT = 0.01
LEAST_RATE = 0.98
LOOKS = 400
"""At memory and rate over the whole run. With 200 of them one tenth against another is 1.5 % uncertain."""
IMAGES = 20
"""A shard's."""
SHORT = 10
"""Shards of a short run."""
SHARDS_A_SECOND = 80
"""More than was ever seen; what is left over when the time is up is not made, and a run that has made all fails."""
SETTLED = 600
"""Shards of a run before it counts: its first seconds are slower."""
_LOOK_EVERY_S = 0.2
STOPPED = 128 + signal.SIGTERM
Span = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the long run's turns.

    Attributes:
        span: when it began and ended, Unix seconds.
        resident_bytes: of the run at its end.
        short_s: what the short run after it took.
    """

    span: Span
    resident_bytes: int
    short_s: float

    @property
    def seconds(self) -> float:
        return self.span[1] - self.span[0]


@dataclass(frozen=True, slots=True)
class Run:
    """A run that goes on, and the folder that it writes."""

    child: Child
    out: Path

    def shard_times(self) -> list[float]:
        """When each shard was on the disk, Unix seconds."""
        events = [json.loads(line) for line in (self.out / "events.jsonl").read_text().splitlines()]
        return [event["time"] for event in events if event["event"] == "shard"]

    def stop(self) -> int:
        """Ends it, though it stand still; its status."""
        self.child.send(signal.SIGTERM)
        self.child.send(signal.SIGCONT)
        return self.child.wait().status


def drill(yard: Yard) -> list[Outcome]:
    """As long as was asked for."""
    if yard.soak_s == 0:
        return [Outcome("a soak", f"memory within {MOST_DRIFT:.0%}", "left out: give --soak-s", None)]
    return soak(yard, seconds=yard.soak_s)


def soak(yard: Yard, *, seconds: float) -> list[Outcome]:
    """Lets a run go on for `seconds`, by turns with short ones; then stops it."""
    few = yard.source(num_identities=SHORT, images=IMAGES, name="few")
    with _begun(yard.part("long"), _endless(yard, few, int(seconds * SHARDS_A_SECOND))) as run:
        _await_shards(run, SETTLED)
        turns = take_turns(run, partial(_time_short, yard, few), seconds)
        status = run.stop()
    times = run.shard_times()
    counts = [shards_in(times, turn.span) for turn in turns]
    return [_judge_memory(turns, seconds, status), _judge_rate(turns, counts, seconds)]


def _judge_memory(turns: list[Turn], seconds: float, status: int) -> Outcome:
    sizes = [float(np.median([turn.resident_bytes for turn in tenth])) for tenth in tenths(turns)]
    drift = sizes[-1] / sizes[1] - 1
    return Outcome(
        fault=f"a run of {seconds:,.0f} s",
        wanted=f"memory of its last tenth within {MOST_DRIFT:.0%} of its second, status {STOPPED} when told to stop",
        found=f"memory {drift:+.2%} of {sizes[1] / 2**20:.0f} MiB, status {status}",
        met=drift <= MOST_DRIFT and status == STOPPED,
        note=f"MiB in each tenth: {', '.join(f'{size / 2**20:.1f}' for size in sizes)}",
    )


def _judge_rate(turns: list[Turn], counts: list[int], seconds: float) -> Outcome:
    paces = [
        ratio_of(made, [turn.seconds / turn.short_s for turn in tenth])
        for made, tenth in zip(tenths(counts), tenths(turns), strict=True)
    ]
    (first, first_error), (last, last_error) = paces[0], paces[-1]
    kept, error = last / first, last / first * math.hypot(first_error / first, last_error / last)
    speeds = [
        sum(made) * IMAGES / sum(turn.seconds for turn in tenth)
        for made, tenth in zip(tenths(counts), tenths(turns), strict=True)
    ]
    return Outcome(
        fault=f"a run of {seconds:,.0f} s, by turns with short ones",
        wanted=f"in its last tenth at least {LEAST_RATE:.0%} of the shards per short run of its first",
        found=f"{kept:.1%} ± {error:.1%} of {first:.1f}; {sum(counts) * IMAGES:,} images",
        met=kept >= LEAST_RATE,
        note=f"one standard error; shards per short run, of {SHORT} shards, in each tenth: "
        f"{', '.join(f'{pace:.2f}' for pace, _ in paces)}; images/s: "
        f"{', '.join(f'{speed:.0f}' for speed in speeds)}; {len(turns)} short runs of "
        f"{np.median([turn.short_s for turn in turns]):.2f} s",
    )


def _endless(yard: Yard, few: Path, num_identities: int) -> Path:
    """More identities than will be made: links to the few."""
    source = yard.folder / "many"
    source.mkdir()
    for identity in range(num_identities):
        # As text: paths would fill Python's table of interned strings, which the run inherits.
        os.symlink(f"{few}/{identity % SHORT:05d}", f"{source}/{identity:07d}")  # noqa: PTH211
    return source


@contextmanager
def _begun(yard: Yard, source: Path) -> Iterator[Run]:
    """A run that is gone when the block ends, however it ends: one that stands still would stay for ever."""
    out = yard.folder / "out"
    run = Run(yard.start(yard.translate(source, out)), out)
    try:
        yield run
    finally:
        with suppress(ChildProcessError):  # it was waited for
            if run.child.ended() is None:
                run.child.send(signal.SIGKILL)
                run.child.wait()


def _await_shards(run: Run, count: int) -> None:
    while not (run.out / "events.jsonl").exists() or len(run.shard_times()) < count:
        _see_that_it_runs(run.child)
        time.sleep(_LOOK_EVERY_S)


def _see_that_it_runs(run: Child) -> None:
    ended = run.ended()
    assert ended is None, f"ended with {ended and ended.status}: {ended and ended.said[-2000:]}"


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def take_turns(run: Run, time_short: Callable[[], float], seconds: float) -> list[Turn]:
    """The long run's turns: it goes on for a while, then stands still for a look and a short run. `seconds` are its
    own, without what the short ones take."""
    turns = []
    run.child.send(signal.SIGSTOP)
    for _ in range(LOOKS):
        begun = time.time()
        run.child.send(signal.SIGCONT)
        time.sleep(seconds / LOOKS)
        _see_that_it_runs(run.child)
        run.child.send(signal.SIGSTOP)
        ended = time.time()
        turns.append(Turn((begun, ended), _resident_bytes(run.child.pid), time_short()))
    return turns


def _time_short(yard: Yard, few: Path) -> float:
    """Seconds of a run from its start to its end, of which nothing stays."""
    out = yard.folder / "short"
    seconds = yard.done(yard.translate(few, out)).seconds
    shutil.rmtree(out)
    return seconds


def shards_in(times: Sequence[float], span: Span) -> int:
    """How many times of `times`, which rise, lie in the span."""
    first, last = np.searchsorted(np.array(times), np.array(span))
    return int(last - first)


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """What one counted by what the other did, turn for turn, and the ratio's standard error (Cochran, Sampling
    Techniques, 1977, 6.4)."""
    one, other = np.array(ours, np.float64), np.array(theirs, np.float64)
    ratio = one.sum() / other.sum()
    spread = (one - ratio * other).std(ddof=1) / np.sqrt(len(one)) / other.mean()
    return float(ratio), float(spread)


def tenths(values: Sequence[T]) -> list[Sequence[T]]:
    """Ten parts of about equal length."""
    edges = [len(values) * part // 10 for part in range(11)]
    return [values[first:last] for first, last in pairwise(edges)]
