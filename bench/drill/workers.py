"""Worker processes of one run, killed: one, all, and the one that leads them."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from d2r_fast.bench.drill.child import Child
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard, temporaries, tree
from d2r_fast.engine.marker import WORKERS

GONE_WITHIN_S = 10.0
"""Workers must not outlive their run by more."""


def drill(yard: Yard) -> list[Outcome]:
    """4 workers, of which one, all, or the leader is killed."""
    count = 2 if yard.quick else 4
    source = yard.source(num_identities=60 if yard.quick else 400, images=6, side=48)
    yard.done(yard.translate(source, yard.folder / "calm"))
    found = [one(yard, source, count)]
    return found if yard.quick else [*found, every(yard, source, count), leader(yard, source, count)]


def one(yard: Yard, source: Path, count: int) -> Outcome:
    """Kills one worker; the others go on."""
    run, pids, out = _start(yard, source, count, "one", at_work=1)
    os.kill(pids[0], signal.SIGKILL)
    ended = run.wait()
    again = 0 if ended.status == 0 else _again(yard, source, out)
    same = tree(out) == tree(yard.folder / "calm")
    return Outcome(
        fault=f"SIGKILL of one of {count} workers",
        wanted="the others make its shards, or the run fails and a rerun does; the same bytes in the end",
        found=f"status {ended.status}, {'the same bytes' if same else 'OTHER BYTES'}{_left(out)}",
        met=again == 0 and same and not temporaries(out) and _reported(out),
        note="others made its shards" if ended.status == 0 else f"a rerun ended with {again}",
    )


def every(yard: Yard, source: Path, count: int) -> Outcome:
    """Kills them all; the run has to fail and to say so."""
    return _rerun_after(
        yard, source, count, "all", f"SIGKILL of all of {count} workers",
        lambda run, pids: _kill(pids), status=1,
    )  # fmt: skip


def leader(yard: Yard, source: Path, count: int) -> Outcome:
    """Kills the process that hands out the shards; its workers have to end."""
    return _rerun_after(
        yard, source, count, "leader", f"SIGKILL of the process that leads {count} workers",
        lambda run, pids: run.send(signal.SIGKILL), status=128 + signal.SIGKILL,
    )  # fmt: skip


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _rerun_after(
    yard: Yard, source: Path, count: int, name: str, fault: str, deed: Callable[[Child, list[int]], object], *,
    status: int,
) -> Outcome:  # fmt: skip
    run, pids, out = _start(yard, source, count, name, at_work=count)
    deed(run, pids)
    ended = run.wait()
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while (alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    again = _again(yard, source, out)
    same = tree(out) == tree(yard.folder / "calm")
    return Outcome(
        fault=fault,
        wanted=f"status {status}, no worker left after {GONE_WITHIN_S:g} s, the rerun's bytes as without",
        found=f"status {ended.status}, {len(alive)} workers left, rerun {again}, "
        f"{'the same bytes' if same else 'OTHER BYTES'}{_left(out)}",
        met=ended.status == status and not alive and again == 0 and same and not temporaries(out),
        note=ended.last_line,
    )


def _start(yard: Yard, source: Path, count: int, name: str, *, at_work: int) -> tuple[Child, list[int], Path]:
    """A run with so many of its workers at work and some shards done; those workers' processes.

    On a machine with much to do one may have made all before another has started.
    """
    out = yard.folder / name
    arguments = yard.translate(source, out, executor="local", workers=count)
    run = yard.start(arguments)
    while True:
        reports = [json.loads(path.read_bytes()) for path in sorted((out / WORKERS).glob("*.json"))]
        if len(reports) >= at_work and len(list(out.glob("*_stats.json"))) >= 2 * at_work:
            return run, [int(report["pid"]) for report in reports], out
        early = run.ended()
        assert early is None, f"ended before its workers were at work: {early and early.said[-2000:]}"
        time.sleep(0.02)


def _again(yard: Yard, source: Path, out: Path) -> int:
    return yard.run(yard.translate(source, out)).status


def _reported(out: Path) -> bool:
    """Whether the log names the loss."""
    return b'"lost"' in (out / "events.jsonl").read_bytes()


def _left(out: Path) -> str:
    left = temporaries(out)
    return f", {left[0]} is left" if left else ""
