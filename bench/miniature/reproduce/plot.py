"""The experiment's plot: a panel a table, a dot for every network, a line at each set's mean."""

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from d2r_fast.bench.miniature.reproduce.document import Table, tables_of

DOT, LINE = "#0072b2", "#d55e00"
"""Okabe and Ito's blue and vermilion."""
HALF_WIDTH = 0.3
"""Of a mean's line, in places."""


def render_plot(document: dict[str, Any]) -> bytes:
    """PNG, 150 dots per inch."""
    tables = tables_of(document)
    figure = Figure(figsize=(3.4 * len(tables) + 1, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        draw_table(axes, table, document)
    panels[0].set_ylabel("accuracy on photographs, %")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def draw_table(axes: Axes, table: Table, document: dict[str, Any]) -> None:
    """A table's rows from left to right."""
    for place, name in enumerate(table.rows):
        accuracy = document["sets"][name]["accuracy"]
        found = 100 * np.array(accuracy["seeds"])
        axes.plot(np.full(len(found), place), found, "o", color=DOT, markersize=5, alpha=0.7)
        mean = 100 * accuracy["mean"]
        axes.plot([place - HALF_WIDTH, place + HALF_WIDTH], [mean, mean], color=LINE, linewidth=2)
    axes.set_xticks(range(len(table.rows)), [said.split(",")[0] for said in table.rows.values()], fontsize=8,
                    rotation=20, ha="right")  # fmt: skip
    axes.set_title(table.title.partition(":")[0], fontsize=10)
    axes.grid(axis="y", alpha=0.3)
