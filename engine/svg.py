"""Matplotlib drawings as inline SVG that takes its colours and its typeface from the page around it.

A chart is drawn in stand-in colours, which are then replaced by the page's CSS variables: one drawing serves light
and dark mode and print.
"""

import io
import re
from collections.abc import Mapping

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


def inline_svg(figure: Figure, name: str, *, variables: Mapping[str, str]) -> Markup:
    """The drawing as an <svg> element: no size, no styles and no ids that could meet those of another one.

    Args:
        figure: what was drawn.
        name: of the drawing, unique in its page: its clip paths are named after it.
        variables: CSS variable ("--first") by the stand-in colour ("#a10001") that it replaces.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            buffer, metadata={"Date": None, "Creator": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--font)", svg)
    for colour, variable in variables.items():
        svg = svg.replace(colour, f"var({variable})")
    return Markup(svg.replace("<svg", '<svg aria-hidden="true"', 1).strip())
