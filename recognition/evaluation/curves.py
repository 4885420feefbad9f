"""ROC curves thinned to what a plot and a reader need, and roc.csv, the file that gives them to other programs.

A curve of 15 million pairs has a hundred thousand corners; on a log axis 64 points per decade draw the same line.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from d2r_fast.recognition.evaluation.results import Run, SuiteResult
from d2r_fast.recognition.evaluation.roc import Roc

CURVES = "roc.csv"
POINTS_PER_DECADE = 64
_ROUNDING = 1e-9
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
HEAD = ("run", "suite", "race", "num_genuine", "num_impostor", "far", "tar", "threshold")


def thin(roc: Roc) -> Roc:
    """The same curve at FARs evenly spaced on a log axis from one false accept, 1 / num_impostor, to 1.

    Between the corners that the curve has it is a straight line, as ROC curves are; where it rises at one FAR, the
    upper end counts.
    """
    decades = math.log10(max(roc.num_impostor, 2))
    far = np.logspace(-decades, 0, 1 + math.ceil(POINTS_PER_DECADE * decades))
    # A FAR of 0.1 by logspace may lie a rounding error before the corner at 1,000 of 10,000 pairs.
    before = np.searchsorted(roc.far, far * (1 + _ROUNDING), side="right") - 1
    after = np.minimum(before + 1, len(roc.far) - 1)
    width = roc.far[after] - roc.far[before]
    share = np.divide(far - roc.far[before], width, out=np.zeros_like(far), where=width > 0).clip(0, 1)
    finite = np.minimum(
        roc.thresholds, np.max(roc.thresholds, where=np.isfinite(roc.thresholds), initial=-np.inf)
    )
    return Roc(
        far=far,
        tar=_between(roc.tar, before, after, share),
        thresholds=_between(finite, before, after, share),
        num_genuine=roc.num_genuine,
        num_impostor=roc.num_impostor,
    )


def _between(values: Floats, before: Indices, after: Indices, share: Floats) -> Floats:
    return values[before] + share * (values[after] - values[before])


def curves_of(result: SuiteResult) -> Iterator[tuple[str, Roc]]:
    """A suite's curves by race, "" for the suite's own."""
    if result.roc is not None:
        yield "", result.roc
    for race, found in result.races.items():
        if found.roc is not None:
            yield race, found.roc


def encode_curves(runs: Mapping[str, Run]) -> bytes:
    """The content of roc.csv: thinned curves, a line per point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    for name, run in runs.items():
        for suite, result in run.items():
            for race, roc in curves_of(result):
                curve = thin(roc)
                fixed = (name, suite, race, curve.num_genuine, curve.num_impostor)
                points = zip(curve.far, curve.tar, curve.thresholds, strict=True)
                writer.writerows((*fixed, *(f"{value:.8g}" for value in point)) for point in points)
    return text.getvalue().encode()
