"""How much better one set is than another to train on, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Folds = Sequence[Sequence[float]]
"""Accuracies (seeds, folds) of the networks trained on a set."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean accuracy with one set less that with another, and two standard errors of it."""

    mean: float
    error: float

    @property
    def is_sure(self) -> bool:
        """Whether it is beyond what chance would do in 19 of 20 experiments."""
        return abs(self.mean) > self.error

    def entry(self) -> dict[str, Any]:
        return {"mean": self.mean, "error": self.error, "sure": self.is_sure}


def difference(one: Folds, other: Folds) -> Difference:
    """Of networks that were verified on the same folds of pairs.

    Two things are left to chance and add up: the trainings, whose spread is over seeds, and the pairs, whose spread is
    over folds, each fold's difference being of the same pairs. People recur from fold to fold, so that it is the
    difference for these people rather than for all.
    """
    apart: NDArray[np.float64] = np.array(one, np.float64) - np.array(other, np.float64)
    variance = _of_mean(apart.mean(axis=0)) + _of_mean(apart.mean(axis=1))
    return Difference(float(apart.mean()), float(2 * np.sqrt(variance)))


def _of_mean(values: NDArray[np.float64]) -> float:
    """Variance of the mean; one value alone says nothing of its spread, and adds none."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
