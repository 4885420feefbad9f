"""Counts of numbers in equal bins: what a chart needs of a million values, in a fixed amount of memory."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Histogram:
    """Values in [low, high] counted in `num_bins` equal bins; what lies beyond counts in the outermost bin.

    NaN stands for "no value" and is left out. Mean and standard deviation are those of the values themselves.
    """

    low: float
    high: float
    num_bins: int
    counts: NDArray[np.int64] = field(init=False)
    num: int = 0
    total: float = 0.0
    total_squares: float = 0.0

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.num_bins, np.int64)

    def add(self, values: NDArray[np.floating]) -> None:
        """Count some more values, any shape."""
        given = np.asarray(values, dtype=np.float64).ravel()
        given = given[~np.isnan(given)]
        bins = np.floor((given - self.low) / (self.high - self.low) * self.num_bins)
        self.counts += np.bincount(bins.clip(0, self.num_bins - 1).astype(np.int64), minlength=self.num_bins)
        self.num += given.size
        self.total += float(given.sum())
        self.total_squares += float((given**2).sum())

    @property
    def mean(self) -> float:
        """NaN where there is no value."""
        return self.total / self.num if self.num else float("nan")

    @property
    def std(self) -> float:
        """Population standard deviation; NaN where there is no value."""
        return max(0.0, self.total_squares / self.num - self.mean**2) ** 0.5 if self.num else float("nan")

    @property
    def edges(self) -> NDArray[np.float64]:
        """Bin edges (num_bins + 1,)."""
        return np.linspace(self.low, self.high, self.num_bins + 1)

    def quantile(self, share: float) -> float:
        """The value that `share` of all lie below, to within a bin; NaN where there is no value."""
        if not self.num:
            return float("nan")
        index = int(np.searchsorted(np.cumsum(self.counts), share * self.num))
        return float((self.edges[:-1] + self.edges[1:])[min(index, self.num_bins - 1)] / 2)


@dataclass(slots=True)
class Agreement:
    """How well two measures of the same things agree, without keeping them: Pearson's r."""

    num: int = 0
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    products: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))

    def add(self, first: NDArray[np.floating], second: NDArray[np.floating]) -> None:
        """Take in some more pairs, both (n,); those with NaN are left out."""
        pairs = np.stack([first, second]).astype(np.float64)
        pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
        self.num += pairs.shape[1]
        self.sums += pairs.sum(axis=1)
        self.products += pairs @ pairs.T

    @property
    def r(self) -> float:
        """From -1 to 1; NaN where there are fewer than two pairs or one measure does not vary."""
        if self.num < 2:
            return float("nan")
        means = self.sums / self.num
        spread = self.products / self.num - np.outer(means, means)
        scale = float(np.sqrt(spread[0, 0] * spread[1, 1]))
        return float(spread[0, 1]) / scale if scale > 1e-12 else float("nan")
