"""What the workers of a dataset last said of themselves, and whether each is still there.

Every worker keeps `workers/<name>.json` in the dataset's folder, written anew at the ends of its shards. Workers sit
on other nodes, whose clocks need not agree with this one's: rates are differences on a worker's own clock, a worker
is called lost on proof alone (its lock is free or, where locks cannot be asked for, its process on this machine has
ended), and ages decide no more than who is called late.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from d2r_fast.engine.lock_probe import Range, covers
from d2r_fast.engine.marker import WORKERS

State = Literal["running", "late", "lost", "finished", "stopped", "failed"]
"""What a worker said last; of one that said it was running: late where it has been silent for too long, lost where it
is gone."""

LATE_SHARDS = 5
"""Times a worker's own mean time of a shard after which its silence is told."""
LATE_LEAST_S = 300.0
"""Silence that is never told: shards differ, and clocks of nodes that keep time at all differ by less."""
_FUTURE_S = 5.0
"""How far ahead a clock may be before it is mentioned."""
_SLACK_S = 10.0
"""How exactly the start of a process is known: a clock may have been set since."""


class _Said(BaseModel):
    """A worker's file. Times are Unix seconds of the worker's own clock; what a later version adds is passed over.

    Attributes:
        shards: its part of the plan, [first, end); None where it takes what it is handed.
        running: shards in work.
        done, failed: shards that it finished, and that it had when it died.
        images: how many the finished shards hold, whatever became of each.
        stage_s: seconds by stage.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: str
    host: str
    pid: int
    device: str
    shards: Range | None
    running: tuple[int, ...]
    done: NonNegativeInt
    failed: NonNegativeInt
    images: NonNegativeInt
    stage_s: dict[str, float]
    started: float
    updated: float
    state: Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker: what it said, and what is known beside that.

    Attributes:
        age_s: since its last word, as far as clocks can tell.
        state: where it stands now.
    """

    said: _Said
    age_s: float
    state: State

    @property
    def images_per_s(self) -> float | None:
        """From its start to its last word; None before its first shard."""
        span_s = self.said.updated - self.said.started
        return self.said.images / span_s if self.said.images and span_s > 0 else None

    @property
    def working(self) -> bool:
        """Whether it is at work, as far as is known."""
        return self.state in ("running", "late")


def read_reports(folder: Path, *, now_s: float) -> tuple[list[WorkerReport], list[str]]:
    """The reports in a dataset's folder by name, and a sentence for each file that is none."""
    reports, faults = [], []
    for path, modified_s in _files(folder / WORKERS):
        try:
            said = _Said.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue  # removed since it was listed
        except (OSError, ValueError):
            faults.append(f"{WORKERS}/{path.name} is no worker's report")
            continue
        # The file's time is the file server's: whichever clock makes it younger is nearer to ours.
        age_s = max(0.0, now_s - max(said.updated, modified_s))
        reports.append(WorkerReport(said, age_s=age_s, state=said.state))
    return reports, faults


def judge(
    reports: Sequence[WorkerReport],
    held: list[Range] | None,
    *,
    num_shards: int,
    before: Sequence[WorkerReport] | None = None,
) -> list[WorkerReport]:
    """The reports with `state` settled.

    Args:
        held: shards whose lock is taken; None where that cannot be told.
        before: the reports as they were before the locks were looked at: who is not among them has come since, and
            may have taken its lock since. Default: the same.
    """
    here = os.uname().nodename
    known_before = {
        (report.said.name, report.said.started) for report in (reports if before is None else before)
    }
    known = [_mean_shard_s(report) for report in reports]
    typical_s = median([mean_s for mean_s in known if mean_s is not None] or [math.inf])
    judged = []
    for report, mean_s in zip(reports, known, strict=True):
        state = report.state
        if state == "running":
            patience_s = max(LATE_LEAST_S, LATE_SHARDS * (mean_s or typical_s))
            old = (report.said.name, report.said.started) in known_before
            if old and _is_gone(report, held, num_shards, here):
                state = "lost"
            elif report.age_s > patience_s:
                state = "late"
        judged.append(replace(report, state=state))
    return judged


def clock_notes(reports: Sequence[WorkerReport], *, now_s: float) -> Iterator[str]:
    """A sentence for each node whose clock is ahead of this one's."""
    ahead: dict[str, float] = {}
    for report in reports:
        host = report.said.host
        ahead[host] = max(ahead.get(host, 0.0), report.said.updated - now_s)
    for host, seconds in sorted(ahead.items()):
        if seconds > _FUTURE_S:
            yield f"the clock of {host} is {seconds:.0f} s ahead of this machine's: ages are not exact"


def _files(folder: Path) -> list[tuple[Path, float]]:
    """Visible .json files with the times of their last change, by name."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (Path(entry.path), entry.stat().st_mtime)
                for entry in entries
                if entry.name.endswith(".json") and not entry.name.startswith(".")
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found)


def _mean_shard_s(report: WorkerReport) -> float | None:
    span_s = report.said.updated - report.said.started
    return span_s / report.said.done if report.said.done and span_s > 0 else None


def _is_gone(report: WorkerReport, held: list[Range] | None, num_shards: int, here: str) -> bool:
    said = report.said
    if held is not None:
        return not covers(held, said.shards or (0, num_shards))
    return said.host == here and not _runs_here(said.pid, since_s=said.started)


def _runs_here(pid: int, *, since_s: float) -> bool:
    """Whether the process is there, and not another one that was given its number since."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    if fields[0] in "ZX":  # ended; its parent has not looked yet
        return False
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s <= since_s + _SLACK_S
