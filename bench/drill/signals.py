"""SIGTERM and SIGINT at random moments: how soon a run ends, with what status, and what it leaves in sight."""

import os
import signal
import threading
import time
from pathlib import Path
from unittest import mock

from d2r_fast.bench.drill import child
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard, temporaries, tree

LIMIT_S = 10.0
"""SLURM waits for 30."""
SECOND_S = 1.0
"""What a person takes for at once."""
LONGEST_S = 1.5
"""Latest moment of a signal after the start of a run."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def drill(yard: Yard) -> list[Outcome]:
    """20 stops by each signal, and one each of a run that was started afresh; a second Ctrl-C."""
    return [stop(yard, num_stops=2 if yard.quick else 20, fresh=not yard.quick), again(yard)]


def stop(yard: Yard, *, num_stops: int, fresh: bool) -> Outcome:
    """Stops `num_stops` runs by each signal."""
    rng = yard.rng("signals")
    source = yard.source(num_identities=40, images=2)
    calm = yard.done(yard.translate(source, yard.folder / "calm"))
    longest_s = min(LONGEST_S, calm.seconds)  # later signals would find nobody
    expected = tree(yard.folder / "calm")
    slowest_s, faults, stopped = 0.0, [], 0
    for number in range(2 * num_stops):
        signum, out = SIGNALS[number % 2], yard.folder / f"stopped-{number}"
        run = yard.start(yard.translate(source, out))
        time.sleep(rng.uniform(0, longest_s))
        run.send(signum)
        ended = run.wait()
        stopped += ended.status != 0
        slowest_s = max(slowest_s, ended.seconds)
        faults += _faults(out, expected, ended, signum)
    for signum in SIGNALS if fresh else ():
        out = yard.folder / f"fresh-{signum}"
        run = child.launch(yard.translate(source, out), yard.folder / "fresh.log")
        _wait_for("*_stats.json", out, run)
        run.send(signum)
        ended = run.wait()
        stopped += 1
        slowest_s = max(slowest_s, ended.seconds)
        faults += _faults(out, expected, ended, signum)
    return Outcome(
        fault=f"SIGTERM or SIGINT at {stopped} random moments",
        wanted=f"the end within {LIMIT_S:g} s, status 143 or 130, nothing partial in sight",
        found=f"{slowest_s:.2f} s at most, {len(faults)} of another kind"
        + (f": {faults[0]}" if faults else ""),
        met=not faults and slowest_s <= LIMIT_S and stopped > 0,
        note=f"each run's first {longest_s:.1f} s" + (", and two from a new interpreter on" if fresh else ""),
    )


def _faults(out: Path, expected: dict[str, str], ended: child.Ended, signum: int) -> list[str]:
    """What is wrong with an end; a run may also have been done before the signal came."""
    if ended.status == 0:
        return []
    found = [] if ended.status == 128 + signum else [f"status {ended.status}: {ended.last_line}"]
    if "Traceback" in ended.said:
        found.append(f"a traceback: {ended.last_line}")
    if out.is_dir():
        found += [f"{name} is left" for name in temporaries(out)]
        seen = {name: digest for name, digest in tree(out).items() if not name.startswith(".")}
        found += [f"{name} is not whole" for name, digest in seen.items() if expected.get(name) != digest]
    return found


def again(yard: Yard) -> Outcome:
    """A second Ctrl-C while the first waits for a disk that does not answer."""
    source, out = yard.folder / "source", yard.folder / "again"
    run = yard.start(yard.translate(source, out), prepare=_stall_disk)
    _wait_for(".00*.tmp", out, run)
    run.send(signal.SIGINT)
    time.sleep(0.5)
    first = run.ended()
    run.send(signal.SIGINT)
    ended = first or run.wait(LIMIT_S)
    return Outcome(
        fault="a second Ctrl-C while the disk hangs",
        wanted=f"the end within {SECOND_S:g} s, status 130",
        found=f"{ended.seconds:.2f} s, status {ended.status}",
        met=ended.status == 130 and ended.seconds <= SECOND_S,
        note="the first had ended it" if first else "the first was still waiting for the file in hand",
    )


def _wait_for(pattern: str, out: Path, run: child.Child) -> None:
    """Until such a file is in the folder."""
    while not list(out.glob(pattern)):
        early = run.ended()
        assert early is None, f"ended before there was {pattern}: {early and early.said[-2000:]}"
        time.sleep(0.01)


def _stall_disk() -> None:
    """From now on no shard that is to be flushed ever is. They are written by threads; a wait of the main thread would
    end with the first signal."""
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if threading.current_thread() is threading.main_thread():
            flush(descriptor)
        else:
            time.sleep(3600)

    mock.patch.object(os, "fsync", fsync).start()
