"""One long run: whether its memory grows or its rate falls.

What a shared machine does changes by a tenth from minute to minute. So the rate at the run's end is not held against
that of its beginning, but against that of a run of the same work that has just begun: the two go by turns, a second
each, one stopped while the other goes on. What would slow both, as a disk that fills, shows in the tenths of the time
alone: they are judged too, by the same share, and need a machine that does nothing else meanwhile.
"""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from d2r_fast.bench.drill.child import Child
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard

MOST_DRIFT = 0.01
LEAST_RATE = 0.98
SAMPLES = 200
"""Looks at the memory over the whole run."""
IMAGES = 20
"""A shard's."""
SHARDS_A_SECOND = 80
"""More than was ever seen; what is left over when the time is up is not made, and a run that has made all fails."""
TURNS, TURN_S = 180, 1.0
"""Of each run. With 40 turns one held against itself is below 98 % once in ten times; with 180 it never was."""
SETTLED = 600
"""Shards of a run before it counts: its first seconds are slower."""
_LOOK_EVERY_S = 0.2
STOPPED = 128 + signal.SIGTERM
Span = tuple[float, float]


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
    """Lets a run go on for `seconds`, then by turns with one that has just begun; then stops both."""
    source = _endless(yard, int((seconds + 2 * TURNS * TURN_S) * SHARDS_A_SECOND))
    with _begun(yard.part("old"), source) as old:
        memory = _watch(old.child, seconds)
        old.child.send(signal.SIGSTOP)
        with _begun(yard.part("fresh"), source) as fresh:
            _await_shards(fresh, SETTLED)
            spans = take_turns((old.child, fresh.child), TURNS)
            statuses = [run.stop() for run in (old, fresh)]
    counts = [_counts(run.shard_times(), own) for run, own in zip((old, fresh), spans, strict=True)]
    alone = [at for at in old.shard_times() if at < spans[0][0][0]]
    return [
        _judge_memory(memory, seconds, statuses[0]),
        _judge_tenths(alone, seconds),
        _judge_turns(counts, alone, seconds, statuses),
    ]


def _judge_memory(memory: list[int], seconds: float, status: int) -> Outcome:
    _, early_bytes, *_, late_bytes = tenths(memory)
    drift = late_bytes / early_bytes - 1
    return Outcome(
        fault=f"a run of {seconds:,.0f} s",
        wanted=f"memory of its last tenth within {MOST_DRIFT:.0%} of its second, status {STOPPED} when told to stop",
        found=f"memory {drift:+.2%} of {early_bytes / 2**20:.0f} MiB, status {status}",
        met=drift <= MOST_DRIFT and status == STOPPED,
        note=f"MiB in each tenth: {', '.join(f'{size / 2**20:.1f}' for size in tenths(memory))}",
    )


def _judge_tenths(alone: list[float], seconds: float) -> Outcome:
    tenth = rates(alone)
    return Outcome(
        fault=f"a run of {seconds:,.0f} s",
        wanted=f"rate of its last tenth at least {LEAST_RATE:.0%} of its first's",
        found=f"{tenth[-1] / tenth[0]:.1%} of {tenth[0]:.0f} images/s",
        met=tenth[-1] / tenth[0] >= LEAST_RATE,
        note=f"{len(alone) * IMAGES:,} images in {len(alone):,} shards; images/s in each tenth: "
        f"{', '.join(f'{rate:.0f}' for rate in tenth)}",
    )


def _judge_turns(counts: list[list[int]], alone: list[float], seconds: float, statuses: list[int]) -> Outcome:
    ratio, error = ratio_of(*counts)
    return Outcome(
        fault=f"a run of {seconds:,.0f} s and one that has just begun, by turns",
        wanted=f"the old one's rate at least {LEAST_RATE:.0%} of the new one's",
        found=f"{ratio:.1%} ± {error:.1%} of {sum(counts[1]) * IMAGES / TURNS / TURN_S:.0f} images/s, after "
        f"{len(alone):,} shards",
        met=ratio >= LEAST_RATE and statuses == [STOPPED] * 2,
        note=f"{TURNS} turns of {TURN_S:g} s each; one standard error; statuses {', '.join(map(str, statuses))}",
    )


def _endless(yard: Yard, num_identities: int) -> Path:
    """More identities than will be made: links to a few."""
    few = yard.source(num_identities=10, images=IMAGES, name="few")
    source = yard.folder / "many"
    source.mkdir()
    for identity in range(num_identities):
        # As text: paths would fill Python's table of interned strings, which the run inherits.
        os.symlink(f"{few}/{identity % 10:05d}", f"{source}/{identity:07d}")  # noqa: PTH211
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


def _watch(run: Child, seconds: float) -> list[int]:
    """Resident bytes, looked at as often in each part of the time."""
    begun_s, memory = time.monotonic(), []
    while time.monotonic() - begun_s < seconds:
        _see_that_it_runs(run)
        memory.append(_resident_bytes(run.pid))
        time.sleep(seconds / SAMPLES)
    return memory


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


def take_turns(runs: tuple[Child, Child], turns: int) -> tuple[list[Span], list[Span]]:
    """Begin and end, Unix seconds, of each one's turns: in the order of A B B A, so that neither is always first.

    One stands still while it is the other's turn; both do in the end.
    """
    spans: tuple[list[Span], list[Span]] = ([], [])
    runs[0].send(signal.SIGSTOP)
    runs[1].send(signal.SIGSTOP)
    for turn in range(turns):
        for place in (0, 1) if turn % 2 == 0 else (1, 0):
            begun = time.time()
            runs[place].send(signal.SIGCONT)
            time.sleep(TURN_S)
            runs[place].send(signal.SIGSTOP)
            spans[place].append((begun, time.time()))
            _see_that_it_runs(runs[place])
    return spans


def _counts(times: Sequence[float], spans: Sequence[Span]) -> list[int]:
    """Shards in each span of time."""
    edges = np.searchsorted(np.array(times), np.array(spans))
    return [int(last - first) for first, last in edges]


def ratio_of(one: Sequence[int], other: Sequence[int]) -> tuple[float, float]:
    """What one counted by what the other did, turn for turn, and the ratio's standard error (Cochran, Sampling
    Techniques, 1977, 6.4)."""
    ours, theirs = np.array(one, np.float64), np.array(other, np.float64)
    assert theirs.sum() > 0, "the new run made nothing in its turns"
    ratio = ours.sum() / theirs.sum()
    spread = (ours - ratio * theirs).std(ddof=1) / np.sqrt(len(ours)) / theirs.mean()
    return float(ratio), float(spread)


def rates(times: list[float]) -> list[float]:
    """Images per second in each tenth of the time."""
    spans = list(pairwise(np.linspace(times[0], times[-1], 11).tolist()))
    return [count * IMAGES / (spans[0][1] - spans[0][0]) for count in _counts(times, spans)]


def tenths(memory: list[int]) -> list[float]:
    """Median bytes in each tenth of the looks: the first has what the run loads."""
    return [float(np.median(sizes)) for sizes in np.array_split(memory, 10)]
