"""How much better one set is than another to train on, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Folds = Sequence[Sequence[float]]
"""Accuracies (seeds, folds) of the networks trained on a set."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean accuracy with one set less that with another.

    Attributes:
        mean: share of the pairs.
        error: what is to either side of it in a 95 % confidence interval.
        trainings: of each set; with one of each, the interval knows nothing of how trainings differ.
    """

    mean: float
    error: float
    trainings: int

    @property
    def is_sure(self) -> bool:
        """Whether chance would bring so much in fewer than 1 of 20 experiments, trainings and pairs drawn anew."""
        return self.trainings > 1 and abs(self.mean) > self.error

    def entry(self) -> dict[str, Any]:
        return {"mean": self.mean, "error": self.error, "trainings": self.trainings, "sure": self.is_sure}


def difference(one: Folds, other: Folds) -> Difference:
    """Of networks that were verified on the same folds of pairs.

    Two things are left to chance and add up: the trainings, whose spread is over seeds, and the pairs, whose spread is
    over folds, each fold's difference being of the same pairs. What is left when both are taken out is in either
    spread, and is counted once. The interval is Student's with the degrees of freedom of such a sum (Satterthwaite,
    Biometrics Bulletin 1946). People recur from fold to fold, so that it is the difference for these people rather than
    for all.
    """
    apart: NDArray[np.float64] = np.array(one, np.float64) - np.array(other, np.float64)
    parts = [_of_mean(apart.mean(axis=axis)) for axis in (0, 1) if apart.shape[1 - axis] > 1]
    if len(parts) == 2:
        shared = _shared(apart)
        if sum(part for part, _ in parts) - shared[0] > max(part for part, _ in parts):
            parts.append((-shared[0], shared[1]))
        else:  # an estimate below what one of them alone brings is chance
            parts = [max(parts)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Difference(float(apart.mean()), 0.0, len(apart))
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return Difference(float(apart.mean()), float(stdtrit(freedom, 0.975) * np.sqrt(variance)), len(apart))


def _of_mean(values: NDArray[np.float64]) -> tuple[float, int]:
    """Variance of the mean, and its degrees of freedom."""
    return float(values.var(ddof=1) / len(values)), len(values) - 1


def _shared(apart: NDArray[np.float64]) -> tuple[float, int]:
    """What the spreads over seeds and over folds both hold of the mean's variance, and its degrees of freedom."""
    rows, columns = (apart.mean(axis=axis, keepdims=True) for axis in (1, 0))
    left, degrees = apart - rows - columns + apart.mean(), (apart.shape[0] - 1) * (apart.shape[1] - 1)
    return float((left**2).sum() / degrees / apart.size), degrees
