"""One long run: whether its memory grows or its rate falls.

What a shared machine does changes by a tenth from minute to minute. So the rate at the run's end is not held against
that of its beginning, but against the beginning of another run of the same work: the two go by turns, a second each,
one stopped while the other goes on.
"""

import json
import os
import signal
import time
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
SHARDS_A_SECOND = 50
"""More than any machine makes; what is left over when the time is up is not made."""
TURN_S = 1.0
LEAST_TURNS = 40
"""Of each run."""
WARM_S = 5.0
"""A run loads and settles in these."""


def drill(yard: Yard) -> list[Outcome]:
    """As long as was asked for."""
    if yard.soak_s == 0:
        return [Outcome("a soak", f"memory within {MOST_DRIFT:.0%}", "left out: give --soak-s", None)]
    return soak(yard, seconds=yard.soak_s)


def soak(yard: Yard, *, seconds: float) -> list[Outcome]:
    """Lets a run go on for `seconds`, then by turns with one that begins, for a tenth of that; then stops both."""
    turns = max(LEAST_TURNS, round(seconds / 10 / TURN_S))
    source = _endless(yard, int((seconds + 3 * turns * TURN_S) * SHARDS_A_SECOND))
    old = yard.start(yard.translate(source, yard.folder / "out"))
    memory = _watch(old, seconds)
    old.send(signal.SIGSTOP)
    fresh = yard.start(yard.translate(source, yard.folder / "fresh"))
    time.sleep(WARM_S)
    spans = _take_turns(fresh, old, turns)
    stopped = [_stop(run) for run in (fresh, old)] == [128 + signal.SIGTERM] * 2
    times = _shard_times(yard.folder / "out")
    first, last = _rate(_shard_times(yard.folder / "fresh"), spans[::2]), _rate(times, spans[1::2])
    _, early_bytes, *_, late_bytes = _tenths(memory)
    drift = late_bytes / early_bytes - 1
    alone = [at for at in times if at < spans[0][0]]
    return [
        Outcome(
            fault=f"a run of {seconds:,.0f} s",
            wanted=f"memory of its last tenth within {MOST_DRIFT:.0%} of its second",
            found=f"memory {drift:+.2%} of {early_bytes / 2**20:.0f} MiB",
            met=drift <= MOST_DRIFT and stopped,
            note=f"MiB in each tenth: {', '.join(f'{size / 2**20:.1f}' for size in _tenths(memory))}",
        ),
        Outcome(
            fault=f"a run of {seconds:,.0f} s and one that begins, by turns",
            wanted=f"the old one's rate at least {LEAST_RATE:.0%} of the new one's",
            found=f"{last / first:.1%} of {first:.0f} images/s, after {len(alone):,} shards",
            met=last / first >= LEAST_RATE and stopped,
            note=f"{turns} turns of {TURN_S:g} s each; alone the run made {len(alone) * IMAGES:,} images, "
            f"{', '.join(f'{rate:.0f}' for rate in _rates(alone))} images/s in the tenths of its time",
        ),
    ]


def _endless(yard: Yard, num_identities: int) -> Path:
    """More identities than will be made: links to a few."""
    few = yard.source(num_identities=10, images=IMAGES, name="few")
    source = yard.folder / "many"
    source.mkdir()
    for identity in range(num_identities):
        # As text: paths would fill Python's table of interned strings, which the run inherits.
        os.symlink(f"{few}/{identity % 10:05d}", f"{source}/{identity:07d}")  # noqa: PTH211
    return source


def _watch(run: Child, seconds: float) -> list[int]:
    """Resident bytes, looked at as often in each part of the time."""
    begun_s, memory = time.monotonic(), []
    while (spent_s := time.monotonic() - begun_s) < seconds:
        early = run.ended()
        assert early is None, f"ended after {spent_s:.0f} s: {early and early.said[-2000:]}"
        memory.append(_resident_bytes(run.pid))
        time.sleep(seconds / SAMPLES)
    return memory


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _take_turns(first: Child, second: Child, turns: int) -> list[tuple[float, float]]:
    """Begin and end, Unix seconds, of the first one's turn, the second's, the first's ... Both stand still after."""
    spans = []
    for _ in range(turns):
        for run in (first, second):
            run.send(signal.SIGCONT)
            begun = time.time()
            time.sleep(TURN_S)
            run.send(signal.SIGSTOP)
            spans.append((begun, time.time()))
    return spans


def _stop(run: Child) -> int:
    """Ends a run that stands still; its status."""
    run.send(signal.SIGTERM)
    run.send(signal.SIGCONT)
    return run.wait().status


def _shard_times(out: Path) -> list[float]:
    """When each shard was on the disk, Unix seconds."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [event["time"] for event in events if event["event"] == "shard"]


def _rate(times: list[float], spans: list[tuple[float, float]]) -> float:
    """Images per second within these spans of time."""
    shards = sum(begun <= at <= ended for begun, ended in spans for at in times)
    return shards * IMAGES / sum(ended - begun for begun, ended in spans)


def _rates(times: list[float]) -> list[float]:
    """Images per second in each tenth of the time."""
    edges = np.linspace(times[0], times[-1], 11).tolist()
    return [_rate(times, [span]) for span in pairwise(edges)]


def _tenths(memory: list[int]) -> list[float]:
    """Median bytes in each tenth of the looks: the first has what the run loads."""
    return [float(np.median(sizes)) for sizes in np.array_split(memory, 10)]
