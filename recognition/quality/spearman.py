"""Spearman's rank correlation, with a bootstrap interval."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

MIN_RUNS, MIN_INTERVAL = 3, 5
"""Fewest pairs for a correlation, and for an interval: of fewer, most resamples are of two or three values."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rho of n pairs, -1 to 1, and its 95 % bootstrap interval; None where it is not defined."""

    num: int
    rho: float | None
    low: float | None
    high: float | None


def spearman(
    first: NDArray[np.float64], second: NDArray[np.float64], *, num_resamples: int, seed: int
) -> Correlation:
    """Correlation of the ranks of two measures (n,) of the same things; equal values share their mean rank.

    Interval: percentiles 2.5 and 97.5 over resamples of the pairs with replacement (Efron and Tibshirani 1993,
    chapter 13). Resamples in which a measure does not vary have no rho and are left out.
    """
    num = len(first)
    rho = _rho(first[None], second[None])[0] if num >= MIN_RUNS else np.nan
    if np.isnan(rho):
        return Correlation(num, None, None, None)
    if num < MIN_INTERVAL:
        return Correlation(num, float(rho), None, None)
    chosen = np.random.default_rng(seed).integers(num, size=(num_resamples, num))
    found = _rho(first[chosen], second[chosen])
    found = found[~np.isnan(found)]
    if not found.size:
        return Correlation(num, float(rho), None, None)
    low, high = np.quantile(found, [0.025, 0.975])
    return Correlation(num, float(rho), float(low), float(high))


def _rho(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rho of each row of two (B,n): (B,), NaN where one does not vary."""
    one, other = (rankdata(values, axis=1) for values in (first, second))
    one, other = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (one, other))
    scale = np.sqrt(np.square(one).sum(axis=1) * np.square(other).sum(axis=1))
    rho: NDArray[np.float64] = np.full(len(one), np.nan)
    varies = scale > 1e-9  # sums of squares of ranks are 0 or at least 1/2
    rho[varies] = (one * other).sum(axis=1)[varies] / scale[varies]
    return rho.clip(-1, 1)
