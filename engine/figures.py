"""The report's charts as inline SVG in the colours of the page around it."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d2r_fast.engine.histogram import Histogram
from d2r_fast.engine.svg import inline_svg

FIRST, SECOND, TEXT, LINE = "#a10001", "#a10002", "#a10003", "#a10004"
VARIABLES = {FIRST: "--first", SECOND: "--second", TEXT: "--muted", LINE: "--line"}
SIZE = (4.3, 2.35)
"""Inches; the page scales the drawing to its column."""
FONT_SIZE = 8.5


def cosine_chart(own: Histogram, between: Histogram) -> Markup:
    """Two distributions of cosines on one axis, each as the share of its own values."""
    figure, axes = _axes("cosine similarity")
    used = np.flatnonzero(own.counts + between.counts)
    low, high = (own.edges[used[0]], own.edges[used[-1] + 1]) if used.size else (-1.0, 1.0)
    step = next(step for step in (1, 2, 4, 5) if step == 5 or (high - low) / (0.01 * step) <= 60)
    for histogram, colour in ((between, SECOND), (own, FIRST)):
        if histogram.num:
            shares = histogram.counts.reshape(-1, step).sum(axis=1) / histogram.num
            axes.stairs(shares, histogram.edges[::step], fill=True, color=colour, alpha=0.28, linewidth=0)
            axes.stairs(shares, histogram.edges[::step], color=colour, linewidth=1.3)
    pad = 0.04 * (high - low)
    axes.set_xlim(max(-1.0, low - pad), min(1.0, high + pad))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return inline_svg(figure, "cosines", variables=VARIABLES)


def t_chart(t: Histogram, alpha: float) -> Markup:
    """Distribution of t over the images, and the Beta(alpha, alpha) density that the recipe asks for."""
    figure, axes = _axes("t")
    density = t.counts / max(t.num, 1) * t.num_bins
    axes.stairs(density, t.edges, fill=True, color=FIRST, alpha=0.28, linewidth=0)
    axes.stairs(density, t.edges, color=FIRST, linewidth=1.3)
    x = np.linspace(0.005, 0.995, 199)
    scale = math.exp(math.lgamma(2 * alpha) - 2 * math.lgamma(alpha))
    axes.plot(x, scale * (x * (1 - x)) ** (alpha - 1), color=SECOND, linewidth=1.5, linestyle=(0, (4, 2)))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return inline_svg(figure, "t", variables=VARIABLES)


def drift_chart(prototype: Sequence[Histogram], latent: Sequence[Histogram]) -> Markup:
    """Mean cosine, with a standard deviation either way, of images to their prototype and latent by t."""
    figure, axes = _axes("t")
    centres = (np.arange(len(prototype)) + 0.5) / len(prototype)
    for histograms, colour in ((latent, SECOND), (prototype, FIRST)):
        filled = np.array([histogram.num > 0 for histogram in histograms])
        mean = np.array([histogram.mean for histogram in histograms])[filled]
        std = np.array([histogram.std for histogram in histograms])[filled]
        axes.fill_between(centres[filled], mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)
        axes.plot(centres[filled], mean, color=colour, linewidth=1.6, marker="o", markersize=2.4)
    axes.set_xlim(0, 1)
    axes.set_ylabel("cosine similarity", color=TEXT, fontsize=FONT_SIZE)
    axes.yaxis.grid(True, color=LINE, linewidth=0.7)
    axes.spines["left"].set_visible(False)
    return inline_svg(figure, "drift", variables=VARIABLES)


def _axes(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=TEXT, labelsize=FONT_SIZE, length=0, pad=4)
    axes.set_xlabel(label, color=TEXT, fontsize=FONT_SIZE)
    return figure, axes
