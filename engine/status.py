"""`d2r-fast status`: how far a dataset has come, who is at work on it, and how long it will take.

Read from the folder alone, from any node that sees it, while others write to it: nothing is written and no lock is
taken. A shard counts as finished as it does for a run that goes on, but for the images of an imagefolder, whose
number has no bound: their marker's word is taken. `verify` looks at contents.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.lock_probe import Range, covers, held_ranges
from d2r_fast.engine.marker import (
    COMMANDS,
    COUNTS,
    DOCUMENT,
    SUCCESS,
    Format,
    ShardFiles,
    document_digest,
    dump,
    kind_of,
    read_document,
    read_marker,
)
from d2r_fast.engine.remote import Remote
from d2r_fast.engine.remote_dataset import outline
from d2r_fast.engine.status_text import render_status
from d2r_fast.engine.worker_report import WorkerReport, clock_notes, judge, read_reports

Progress = Literal["finished", "running", "stopped"]
EXIT_STATUS: dict[Progress, int] = {"finished": 0, "stopped": 1, "running": 4}
"""2 is bad input, as of every command; 3 is taken by runs that lost too many images."""
NUM_THREADS = 16
"""Markers read at once: on a network's disk each is some milliseconds of waiting."""


@dataclass(frozen=True, slots=True)
class Status:
    """A dataset at one moment.

    Attributes:
        folder: or the URL.
        counts: images of the finished shards: wanted, written, rejected, failed.
        wanted: images of the whole plan.
        running: shards in work, by the workers that are there.
        held: shards that processes hold; None where that cannot be told.
        images_per_s: of all workers together; None where none has finished a shard.
        left_s: until the last worker has done its part; None where that cannot be told.
        notes: what a person should know or do.
    """

    folder: Path | str
    kind: str
    progress: Progress
    num_shards: int
    finished: tuple[int, ...]
    running: tuple[int, ...]
    held: tuple[Range, ...] | None
    counts: dict[str, int]
    wanted: int
    images_per_s: float | None
    left_s: float | None
    workers: tuple[WorkerReport, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Shards that workers had when they died, as far as they can still be missing."""
        lost = sum(worker.said.failed for worker in self.workers)
        return min(lost, self.num_shards - len(self.finished) - len(self.running))


def run_status(place: Path | str, *, as_json: bool) -> int:
    """Print the status; the exit status is 0 of a finished dataset, 4 of one in work, 1 of one that nobody works on.

    Args:
        place: the dataset's folder or its URL.

    Raises:
        UserError: `place` is no dataset.
        RunError: the network failed.
    """
    status = read_status(place) if isinstance(place, Path) else read_remote_status(Remote(place))
    print(dump(as_document(status)).decode() if as_json else render_status(status), end="")
    return EXIT_STATUS[status.progress]


def read_remote_status(remote: Remote) -> Status:
    """The status of a dataset behind fsspec. It has no locks: that a worker is gone is not seen, only its silence.

    Raises:
        UserError: it is no dataset.
        RunError: the network failed.
    """
    with outline(remote) as folder:
        if not (folder / DOCUMENT).exists():
            raise UserError(
                f"{remote} holds no {DOCUMENT}, so it is no dataset of d2r-fast: check the address"
            )
        return replace(read_status(folder, has_locks=False), folder=remote.url)


def read_status(folder: Path, *, now_s: float | None = None, has_locks: bool = True) -> Status:
    """The status of the dataset in `folder`; `now_s` is the Unix time to reckon ages from, default now.

    Args:
        has_locks: whether those at work hold the folder's lock.

    Raises:
        UserError: it is no dataset, or its document is damaged.
    """
    document = read_document(folder)
    num_shards, wanted = _plan(folder, document)
    now_s = time.time() if now_s is None else now_s
    # Reports on both sides of the locks, so that who ends or begins in between is not taken for lost; and all before
    # the markers: a shard that is finished in between is then in work and finished, not neither.
    before, _ = read_reports(folder, now_s=now_s)
    held = held_ranges(folder, num_shards) if has_locks else None
    reports, faults = read_reports(folder, now_s=now_s)
    workers = judge(reports, held, num_shards=num_shards, before=before)
    finished, counts = read_markers(folder, document)
    progress = _progress(folder, len(finished) == num_shards, held, workers)
    left_s = forecast(workers, finished, num_shards=num_shards, images=wanted - counts["wanted"])
    rates = [worker.images_per_s for worker in workers if worker.working and worker.images_per_s]
    running = {number for worker in workers if worker.working for number in worker.said.running}
    notes = [*faults, *clock_notes(reports, now_s=now_s)]
    if progress != "finished":
        notes += _notes(workers, held, finished, num_shards, progress, COMMANDS.get(kind_of(document), ""))
    return Status(
        folder=folder, kind=kind_of(document), progress=progress, num_shards=num_shards, finished=tuple(finished),
        running=tuple(sorted(running.difference(finished))), held=None if held is None else tuple(held), counts=counts,
        wanted=wanted, images_per_s=sum(rates) if rates else None,
        left_s=left_s if progress == "running" else None, workers=tuple(workers), notes=tuple(notes),
    )  # fmt: skip


def read_markers(folder: Path, document: dict[str, Any]) -> tuple[list[int], dict[str, int]]:
    """Numbers of the finished shards in order, and the counts of their images together."""
    names, digest = set(os.listdir(folder)), document_digest(document)  # noqa: PTH208 (one entry a file)
    there = [n for n in range(document["plan"]["num_shards"]) if ShardFiles.of(n).stats in names]

    def read(numbers: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
        found = []
        for number in numbers:
            try:
                marker = read_marker(folder, number, format=document["format"], dataset=digest, images=False)
            except ValueError:
                continue
            found.append((number, marker))
        return found

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        parts = [there[start::NUM_THREADS] for start in range(NUM_THREADS)]
        found = [item for part in pool.map(read, parts) for item in part]
    counts = {name: sum(marker[name] for _, marker in found) for name in COUNTS}
    return sorted(number for number, _ in found), counts


def forecast(
    workers: Sequence[WorkerReport], finished: Sequence[int], *, num_shards: int, images: int
) -> float | None:
    """Seconds until the workers have done their parts at the rates they had; None where one has no rate yet.

    Workers of one part share what is left of it; parts are done side by side. `images` are those that are not made
    yet, taken to be spread evenly over the shards that are not finished.
    """
    parts: dict[Range, float] = {}
    for worker in workers:
        if worker.working:
            part = worker.said.shards or (0, num_shards)
            parts[part] = parts.get(part, 0.0) + (worker.images_per_s or 0.0)
    left = sorted(set(range(num_shards)).difference(finished))
    if not left or not parts or not all(parts.values()):
        return None
    per_shard = images / len(left)
    return max(
        sum(first <= number < end for number in left) * per_shard / rate
        for (first, end), rate in parts.items()
    )


def as_document(status: Status) -> dict[str, Any]:
    """The status as JSON holds it: for scripts, which may rely on these names."""
    return {
        "folder": str(status.folder),
        "kind": status.kind,
        "state": status.progress,
        "shards": {
            "total": status.num_shards, "finished": len(status.finished), "running": list(status.running),
            "failed": status.failed,
            "held": None if status.held is None else [list(part) for part in status.held],
        },
        "images": {"total": status.wanted, "finished": status.counts["wanted"]}
        | {name: status.counts[name] for name in COUNTS if name != "wanted"},
        "images_per_s": status.images_per_s,
        "left_s": status.left_s,
        "workers": [_worker_document(worker) for worker in status.workers],
        "notes": list(status.notes),
    }  # fmt: skip


def _worker_document(worker: WorkerReport) -> dict[str, Any]:
    said = worker.said.model_dump(mode="json")
    return said | {"state": worker.state, "images_per_s": worker.images_per_s, "age_s": worker.age_s}


def _plan(folder: Path, document: dict[str, Any]) -> tuple[int, int]:
    """How many shards and images the plan has."""
    plan = document["plan"]
    num_shards, wanted = plan.get("num_shards"), plan.get("wanted")
    if (
        type(num_shards) is not int
        or type(wanted) is not int
        or min(num_shards, wanted) < 0
        or document.get("format") not in get_args(Format)
    ):
        raise UserError(f"{folder / DOCUMENT} is damaged (no whole plan or format): put the original back")
    return num_shards, wanted


def _progress(
    folder: Path, whole: bool, held: list[Range] | None, workers: Sequence[WorkerReport]
) -> Progress:
    if whole and (folder / SUCCESS).exists():
        return "finished"
    return "running" if held or any(worker.working for worker in workers) else "stopped"


def _notes(
    workers: Sequence[WorkerReport],
    held: list[Range] | None,
    finished: Sequence[int],
    num_shards: int,
    progress: Progress,
    command: str,
) -> list[str]:
    notes = []
    for worker in workers:
        who = f"{worker.said.name} on {worker.said.host}"
        if worker.state == "lost":
            notes.append(f"{who} is gone: what it had in work is made again by whoever takes its shards")
        elif worker.state == "failed":
            notes.append(f"{who} failed: the log of its run says why")
        elif worker.state == "late":
            notes.append(f"{who} has said nothing for {worker.age_s:.0f} s: look at its machine and its log")
    if progress == "stopped":
        return [*notes, f"nobody is at work: run the same `d2r-fast {command}` again to go on"]
    if held is not None:
        done = set(finished)
        idle = [n for n in range(num_shards) if n not in done and not covers(held, (n, n + 1))]
        if idle:
            notes.append(f"nobody is at work on {len(idle)} unfinished shards (first: {idle[0]:05d})")
    return notes
