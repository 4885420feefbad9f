"""One long run: whether its memory grows or its rate falls."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np

from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard

MOST_DRIFT = 0.01
LEAST_RATE = 0.98
SAMPLES = 200
"""Looks at the memory over the whole run."""
_BLOCK = bytes(1 << 20)
IMAGES = 20
"""A shard's."""
SHARDS_A_SECOND = 50
"""More than any machine makes; what is left over when the time is up is not made."""


def drill(yard: Yard) -> list[Outcome]:
    """As long as was asked for."""
    if yard.soak_s == 0:
        return [Outcome("a soak", f"memory within {MOST_DRIFT:.0%}", "left out: give --soak-s", None)]
    return soak(yard, seconds=yard.soak_s)


def soak(yard: Yard, *, seconds: float) -> list[Outcome]:
    """Lets a run go on for `seconds`, then stops it."""
    source, out = _endless(yard, int(seconds * SHARDS_A_SECOND) + 100), yard.folder / "out"
    run = yard.start(yard.translate(source, out))
    begun_s, memory, speeds = time.monotonic(), [], []
    while (spent_s := time.monotonic() - begun_s) < seconds:
        early = run.ended()
        assert early is None, f"ended after {spent_s:.0f} s: {early and early.said[-2000:]}"
        memory.append((spent_s, _resident_bytes(run.pid)))
        speeds.append(_speed())
        time.sleep(seconds / SAMPLES)
    run.send(signal.SIGTERM)
    ended = run.wait()
    times = _shard_times(out)
    first, last = _rates(times)
    _, early_bytes, *_, late_bytes = _tenths(memory)
    drift, rate = late_bytes / early_bytes - 1, last / first
    early_speed, late_speed = (float(np.median(part)) for part in np.array_split(speeds, 10)[::9])
    machine = late_speed / early_speed
    fault, stopped = f"a run of {seconds:,.0f} s", ended.status == 128 + signal.SIGTERM
    return [
        Outcome(
            fault=fault,
            wanted=f"memory of its last tenth within {MOST_DRIFT:.0%} of its second",
            found=f"memory {drift:+.2%} of {early_bytes / 2**20:.0f} MiB",
            met=drift <= MOST_DRIFT and stopped,
            note=f"MiB in each tenth: {', '.join(f'{size / 2**20:.1f}' for size in _tenths(memory))}",
        ),
        Outcome(
            fault=fault,
            wanted=f"rate of its last tenth at least {LEAST_RATE:.0%} of its first's, for what the machine does",
            found=f"{rate / machine:.0%} of {first:.0f} images/s ({rate:.0%}, the machine's own speed {machine:.0%})",
            met=rate / machine >= LEAST_RATE and stopped,
            note=f"{len(times) * IMAGES:,} images in {len(times):,} shards; tenths of the run, after its first shard",
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


def _speed() -> float:
    """Of this machine at this moment, in anything: others use it too."""
    begun_s = time.perf_counter()
    for _ in range(3):
        hashlib.sha256(_BLOCK).digest()
    return 1 / (time.perf_counter() - begun_s)


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _shard_times(out: Path) -> list[float]:
    """When each shard was on the disk, Unix seconds."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [event["time"] for event in events if event["event"] == "shard"]


def _rates(times: list[float]) -> tuple[float, float]:
    """Images per second in the first and the last tenth of the time."""
    tenth = (times[-1] - times[0]) / 10
    first = sum(at <= times[0] + tenth for at in times)
    last = sum(at > times[-1] - tenth for at in times)
    return first * IMAGES / tenth, last * IMAGES / tenth


def _tenths(memory: list[tuple[float, int]]) -> list[float]:
    """Median bytes in each tenth of the looks: the first has what the run loads."""
    return [float(np.median(sizes)) for sizes in np.array_split([size for _, size in memory], 10)]
