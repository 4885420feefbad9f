"""The status of a dataset as plain text, for a terminal or a log."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from d2r_fast.engine.worker_report import WorkerReport

if TYPE_CHECKING:
    from d2r_fast.engine.status import Status

_HEAD = (
    "worker", "host", "device", "state", "part", "in work", "done", "failed", "images", "images/s", "last word",
)  # fmt: skip
_NUMBERS = frozenset(_HEAD[6:])
"""Columns set to the right."""
_SHOWN = 4
"""Shards in work that are named; a worker has two or three."""


def render_status(status: "Status") -> str:
    """Some lines about the whole, a line for each worker, and what to know or do."""
    blocks = ["\n".join(_summary(status))]
    if status.workers:
        blocks.append(_table([_HEAD, *(_row(worker) for worker in status.workers)]))
    if status.notes:
        blocks.append("\n".join(status.notes))
    return "\n\n".join(blocks) + "\n"


def span(seconds: float) -> str:
    """A span of time to two units: 12 s, 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (unit, size), (next_unit, next_size) in pairwise(units):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // next_size} {next_unit}"
    return f"{whole} s"


def _summary(status: "Status") -> list[str]:
    counts, finished = status.counts, len(status.finished)
    lines = [
        f"{status.folder}: {status.kind}, {status.progress}",
        f"shards  {finished:,} of {status.num_shards:,} finished ({_percent(finished, status.num_shards)}), "
        f"{len(status.running):,} in work, {status.failed:,} failed",
        f"images  {counts['wanted']:,} of {status.wanted:,}: {counts['written']:,} written, "
        f"{counts['rejected']:,} rejected, {counts['failed']:,} failed",
    ]
    if status.images_per_s is not None:
        left = "" if status.left_s is None else f", {span(status.left_s)} left"
        lines.append(f"speed   {_rate(status.images_per_s)} images/s{left}")
    return lines


def _row(worker: WorkerReport) -> tuple[str, ...]:
    said = worker.said
    running = said.running if worker.working else ()
    more = f" and {len(running) - _SHOWN} more" if len(running) > _SHOWN else ""
    return (
        said.name, said.host, said.device, worker.state,
        "any" if said.shards is None else f"{said.shards[0]}:{said.shards[1]}",
        " ".join(f"{number:05d}" for number in running[:_SHOWN]) + more, f"{said.done:,}", f"{said.failed:,}",
        f"{said.images:,}", _rate(worker.images_per_s), f"{span(worker.age_s)} ago",
    )  # fmt: skip


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for cell, width, name in zip(row, widths, _HEAD, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _rate(per_second: float | None) -> str:
    return "" if per_second is None else f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def _percent(part: int, whole: int) -> str:
    """Rounded down, so that 100 % is all."""
    return f"{int(1000 * part / whole) / 10:g} %" if whole else "100 %"
