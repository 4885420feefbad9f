"""ROC curves on a logarithmic FAR axis, for print (PNG, SVG) and for the page (inline SVG).

One line per suite and run, one panel per family of benchmarks. A suite has its colour and its dashes, so that lines
can be told apart without seeing colours; its runs are thin lines alike. A curve starts where one impostor pair is
accepted: further left nothing was measured.

Colours of print: Okabe and Ito, "Color Universal Design" (2008), without the yellow, which white paper swallows.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from d2r_fast.engine.svg import inline_svg
from d2r_fast.recognition.evaluation.curves import curves_of, thin
from d2r_fast.recognition.evaluation.measures import TEMPLATES
from d2r_fast.recognition.evaluation.results import Run
from d2r_fast.recognition.evaluation.roc import Roc
from d2r_fast.recognition.evaluation.tables import title_of

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ((), (6, 2), (2, 1.4), (7, 2, 2, 2), (4, 1.5, 1, 1.5, 1, 1.5))
"""Lengths on and off, in line widths; none for a line without gaps."""
STAND_INS = tuple(f"#b1000{index}" for index in range(1, len(COLOURS) + 1))
TEXT, GRID = "#b2000a", "#b2000b"
VARIABLES = {colour: f"--curve-{index}" for index, colour in enumerate(STAND_INS, start=1)} | {
    TEXT: "--muted",
    GRID: "--line",
}
FAMILIES = {"pairs": "Pairs", "templates": "Templates, 1:1", "races": "RFW by race"}
WIDTH = 1.7
"""Points, of one run's line; of several they are thinner."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one suite (of RFW: one race) is drawn as: a thinned curve per run."""

    label: str
    colour: int
    """Index in COLOURS."""
    dashes: tuple[float, ...]
    curves: tuple[Roc, ...]

    @property
    def dash_array(self) -> str:
        """The dashes as SVG has them, for a line of `WIDTH`."""
        return " ".join(f"{length * WIDTH:g}" for length in self.dashes)


def lines_of(runs: Mapping[str, Run]) -> dict[str, list[Line]]:
    """Lines by family, without the families that have none."""
    found: dict[str, dict[str, list[Roc]]] = {family: {} for family in FAMILIES}
    for run in runs.values():
        for suite, result in run.items():
            for race, roc in curves_of(result):
                family = "races" if race else "templates" if suite in TEMPLATES else "pairs"
                label = f"{title_of(suite)} {race}".strip() if race else title_of(suite)
                found[family].setdefault(label, []).append(thin(roc))
    return {
        family: [
            Line(label, index % len(COLOURS), DASHES[index % len(DASHES)], tuple(rocs))
            for index, (label, rocs) in enumerate(lines.items())
        ]
        for family, lines in found.items()
        if lines
    }


def render_png(lines: Mapping[str, Sequence[Line]], *, title: str) -> bytes:
    """All panels as PNG, 200 dots per inch."""
    figure = draw(lines, title=title)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def render_svg(lines: Mapping[str, Sequence[Line]], *, title: str) -> bytes:
    """All panels as SVG with its letters as shapes, equal bytes for equal curves."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "roc"}):
        FigureCanvasSVG(draw(lines, title=title)).print_svg(  # type: ignore[no-untyped-call]
            buffer, metadata={"Date": None, "Creator": None}
        )
    return buffer.getvalue()


def draw(lines: Mapping[str, Sequence[Line]], *, title: str) -> Figure:
    """The figure for print: a panel per family, each with its legend."""
    figure = Figure(figsize=(0.4 + 4.6 * len(lines), 4.4), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    for axes, (family, drawn) in zip(
        figure.subplots(1, len(lines), squeeze=False)[0], lines.items(), strict=True
    ):
        draw_lines(axes, drawn, colours=COLOURS)
        axes.set_title(FAMILIES[family], fontsize=10)
        axes.grid(visible=True, which="major", color="#d9d9d9", linewidth=0.6)
        axes.set_xlabel("false accept rate", fontsize=9)
        axes.set_ylabel("true accept rate", fontsize=9)
        axes.tick_params(labelsize=8.5)
        legend = axes.legend(loc="best", fontsize=8, framealpha=0.92, handlelength=3.2, borderpad=0.6)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def render_inline(lines: Sequence[Line], *, family: str) -> Markup:
    """One panel for the page, without a legend, in the page's colours."""
    figure = Figure(figsize=(4.3, 3.0), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    draw_lines(axes, lines, colours=STAND_INS)
    axes.grid(visible=True, which="major", color=GRID, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=TEXT, labelsize=8.5, length=0, pad=4, which="both")
    axes.set_xlabel("false accept rate", color=TEXT, fontsize=8.5)
    axes.set_ylabel("true accept rate", color=TEXT, fontsize=8.5)
    return inline_svg(figure, f"roc-{family}", variables=VARIABLES)


def draw_lines(axes: Axes, lines: Sequence[Line], *, colours: Sequence[str]) -> None:
    """The curves and their axes: FAR from the first decade that some curve reaches, TAR from the lowest tenth."""
    axes.set_axisbelow(True)
    for line in lines:
        several = len(line.curves) > 1
        for index, curve in enumerate(line.curves):
            axes.plot(
                curve.far,
                curve.tar,
                color=colours[line.colour],
                linewidth=0.6 * WIDTH if several else WIDTH,
                label="_" if index else f"{line.label} ({len(line.curves)} runs)" if several else line.label,
                linestyle=(0, line.dashes) if line.dashes else "-",
            )
    curves = [curve for line in lines for curve in line.curves]
    axes.set_xscale("log")
    axes.set_xlim(10.0 ** math.floor(math.log10(min(curve.far[0] for curve in curves)) + 1e-9), 1.0)
    lowest = math.floor(10 * min(curve.tar[0] for curve in curves)) / 10
    axes.set_ylim(min(lowest, 0.9), 1.0 + 0.012 * (1.0 - min(lowest, 0.9)))
