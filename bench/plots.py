"""The pictures of a benchmark document: throughput against batch, where the time goes, distance from the ceiling."""

import io
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from d2r_fast.engine.files import write_atomic

Json = dict[str, Any]


def draw_plots(document: Json, path: Path) -> None:
    """Writes one PNG of three panels; a panel without measurements says so.

    Raises:
        RunError: the disk is full.
    """
    figure = Figure(figsize=(15, 5), layout="constrained")
    FigureCanvasAgg(figure)
    batches, stages, ceiling = figure.subplots(1, 3)
    plot_batches(batches, rows_of(document, "networks"))
    plot_stages(stages, rows_of(document, "pipeline"))
    plot_ceiling(ceiling, [row for name in document["sections"] for row in rows_of(document, name)])
    machine = document["machine"]
    gpu = machine["gpu"]
    figure.suptitle(
        f"{gpu['name'] if gpu else machine['cpu']}, {document['size']} networks, {document['date']}"
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())


def rows_of(document: Json, name: str) -> list[Json]:
    """Rows of a section, none where it was skipped."""
    rows: list[Json] = document["sections"].get(name, {}).get("rows", [])
    return rows


def plot_batches(axes: Axes, rows: list[Json]) -> None:
    """UNet rows per second by batch size, a line per backend and precision."""
    axes.set(title="UNet throughput", xlabel="rows in a batch", ylabel="rows/s")
    lines: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row.get("network") == "unet":
            size = row["batch_size"]
            name = f"{row['backend']} {row['precision']}"
            lines.setdefault(name, {}).setdefault(size, []).append(row["per_s"])
            # Timed in turn with every backend, so several times.
            lines.setdefault("torch fp32 eager", {}).setdefault(size, []).append(size / row["eager_s"])
    for name, points in lines.items():
        sizes = sorted(points)
        axes.plot(sizes, [median(points[size]) for size in sizes], marker="o", label=name)
    if lines:
        axes.set_xticks(sorted({size for points in lines.values() for size in points}))
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
    else:
        _say_none(axes)


def plot_stages(axes: Axes, rows: list[Json]) -> None:
    """Seconds of each stage of the pipeline."""
    axes.set(title="Stages of generate, summed over threads", xlabel="seconds")
    stages = next((row["stage_s"] for row in rows if row.get("stage_s")), None)
    if not stages:
        _say_none(axes)
        return
    names = sorted(stages, key=lambda name: stages[name])
    axes.barh(names, [stages[name] for name in names])


def plot_ceiling(axes: Axes, rows: list[Json]) -> None:
    """Which share of the ceiling every measurement reaches."""
    axes.set(title="Share of this machine's ceiling", xlabel="%", xlim=(0, 100))
    known = [row for row in rows if row.get("of_ceiling") is not None][:24]
    if not known:
        _say_none(axes)
        return
    axes.barh([row["name"] for row in reversed(known)], [100 * row["of_ceiling"] for row in reversed(known)])
    axes.tick_params(axis="y", labelsize=7)


def _say_none(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
