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

Deed = Callable[[Child, list[int]], object]
TRIES = 5
NUM_THREADS = 17
"""Place in /proc/PID/stat, counted from the state (proc(5))."""
GONE_WITHIN_S = 10.0
"""Workers must not outlive their run by more."""


class Early(RuntimeError):
    """A run was over before anything could be done to it."""


def drill(yard: Yard) -> list[Outcome]:
    """4 workers, of which one, all, or the leader is killed."""
    count = 2 if yard.quick else 4
    source = yard.source(num_identities=60 if yard.quick else 1000, images=6, side=48)
    yard.done(yard.translate(source, yard.folder / "calm"))
    found = [one(yard, source, count)]
    return found if yard.quick else [*found, every(yard, source, count), leader(yard, source, count)]


def one(yard: Yard, source: Path, count: int) -> Outcome:
    """Kills one worker; the others go on."""
    run, _, out = _struck(yard, source, count, "one", lambda run, pids: _kill(pids[:1]), at_work=1)
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
        lambda run, pids: _kill([run.pid]), status=128 + signal.SIGKILL,
    )  # fmt: skip


def _kill(pids: list[int]) -> None:
    for pid in pids:
        if _is_over(pid):
            raise Early
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            raise Early from None


def _is_over(pid: int) -> bool:
    """Whether a process has ended with all its threads, waited for or not: until the last is gone, its files are held,
    though the first is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] in "ZX" and int(fields[NUM_THREADS]) <= 1


def _rerun_after(
    yard: Yard, source: Path, count: int, name: str, fault: str, deed: Deed, *,
    status: int,
) -> Outcome:  # fmt: skip
    run, pids, out = _struck(yard, source, count, name, deed, at_work=count)
    ended = run.wait()
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while (alive := [pid for pid in pids if not _is_over(pid)]) and time.monotonic() < deadline_s:
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


def _struck(
    yard: Yard, source: Path, count: int, name: str, deed: Deed, *, at_work: int
) -> tuple[Child, list[int], Path]:
    """A run that `deed` was done to in the middle of its work, its workers' processes and its folder.

    On a machine with much to do one worker may have made all before another has started: then the run is begun afresh.

    Raises:
        Early: time after time.
        AssertionError: it ended with another status than 0, and nobody had touched it.
    """
    for attempt in range(TRIES):
        out = yard.folder / f"{name}-{attempt}"
        run = yard.start(yard.translate(source, out, executor="local", workers=count))
        pids = _at_work(run, out, at_work)
        if pids is None:
            continue
        try:
            deed(run, pids)
        except Early:
            run.send(signal.SIGKILL)
            run.wait()
            continue
        return run, pids, out
    raise Early(f"{TRIES} runs ended before {at_work} workers were at work")


def _at_work(run: Child, out: Path, count: int) -> list[int] | None:
    """The processes of `count` workers that are at work, once some shards are done; None if the run has done all."""
    while (ended := run.ended()) is None:
        reports = [json.loads(path.read_bytes()) for path in sorted((out / WORKERS).glob("*.json"))]
        if len(reports) >= count and len(list(out.glob("*_stats.json"))) >= 2 * count:
            return [int(report["pid"]) for report in reports]
        time.sleep(0.02)
    assert ended.status == 0, f"ended with {ended.status}: {ended.said[-2000:]}"
    return None


def _again(yard: Yard, source: Path, out: Path) -> int:
    return yard.run(yard.translate(source, out)).status


def _reported(out: Path) -> bool:
    """Whether the log names the loss."""
    return b'"lost"' in (out / "events.jsonl").read_bytes()


def _left(out: Path) -> str:
    left = temporaries(out)
    return f", {left[0]} is left" if left else ""
