"""A second run on a folder that is in use."""

import shutil
import signal
import time
from pathlib import Path

from d2r_fast.bench.drill.child import Child
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard, tree
from d2r_fast.engine.folder_lock import LOCK
from d2r_fast.engine.marker import SUCCESS

LIMIT_S = 1.0


def drill(yard: Yard) -> list[Outcome]:
    """20 times."""
    return [second(yard, times=2 if yard.quick else 20)]


def second(yard: Yard, *, times: int) -> Outcome:
    """Starts the same run again while the first, which is held still meanwhile, has the folder."""
    rng = yard.rng("second")
    source = yard.source(num_identities=20, images=2)
    yard.done(yard.translate(source, yard.folder / "calm"))
    expected, slowest_s, faults = tree(yard.folder / "calm"), 0.0, []
    longest_s = 0.3
    for number in range(times):
        out = yard.folder / f"shared-{number}"
        while (first := _hold(yard, source, out, rng.uniform(0, longest_s))) is None:
            longest_s /= 2  # a fast machine: it was done by then
        other = yard.run(yard.translate(source, out))
        first.send(signal.SIGCONT)
        slowest_s = max(slowest_s, other.seconds)
        if first.wait().status != 0 or tree(out) != expected:
            faults.append("the first came to harm")
        elif other.status != 1 or "in use" not in other.last_line:
            faults.append(f"status {other.status}: {other.last_line}")
    return Outcome(
        fault=f"a second run on a folder in use, {times} times",
        wanted=f"it ends within {LIMIT_S:g} s with status 1 and says who has it; the first is not harmed",
        found=f"{slowest_s:.2f} s at most, {len(faults)} of another kind"
        + (f" (first: {faults[0]})" if faults else ""),
        met=not faults and slowest_s <= LIMIT_S,
        note="counted from when Python has imported what it needs",
    )


def _hold(yard: Yard, source: Path, out: Path, seconds: float) -> Child | None:
    """A run that was stopped still so long after it took the folder; None where it was done with it before."""
    run = yard.start(yard.translate(source, out))
    while not (out / LOCK).is_file() or not (out / LOCK).read_bytes():
        early = run.ended()
        assert early is None, f"ended before it took the folder: {early and early.said[-2000:]}"
        time.sleep(0.002)
    time.sleep(seconds)
    run.send(signal.SIGSTOP)
    if not (out / SUCCESS).exists():
        return run
    run.send(signal.SIGCONT)
    run.wait()
    shutil.rmtree(out)
    return None
