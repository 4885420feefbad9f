"""Ten-fold accuracy as it is commonly computed: one threshold after another, and every fold anew.

Two baselines, kept plain on purpose, and to the same rules as `recognition/evaluation/folds.py`. `plain_ten_fold`
computes what is asked for. `scripted_ten_fold` does the work of InsightFace's calculate_roc, which starts from unit
vectors, counts all four outcomes of every threshold, and does so for the left-out fold too, which nobody reads.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Distances = NDArray[np.floating]
Labels = NDArray[np.bool_]
Share = Callable[[Distances, Labels, float], float]
"""Share of pairs that a threshold judges rightly."""


def plain_distances(unit: NDArray[np.floating]) -> Distances:
    """Squared distances of unit vectors 2i and 2i + 1 of (2N, D): (N,)."""
    distances: Distances = np.sum(np.square(unit[0::2] - unit[1::2]), axis=1)
    return distances


def plain_ten_fold(
    distances: Distances, same: Labels, *, num_folds: int = 10
) -> tuple[list[float], list[float]]:
    """Accuracy and threshold of each fold."""
    return _loop(distances, same, share_right, num_folds=num_folds, left_out_too=False)


def scripted_ten_fold(unit: NDArray[np.floating], same: Labels) -> tuple[list[float], list[float]]:
    """The same from unit vectors (2N, D), with all that the script counts on the way."""
    return _loop(plain_distances(unit), same, share_of_outcomes, num_folds=10, left_out_too=True)


def _loop(
    distances: Distances, same: Labels, share: Share, *, num_folds: int, left_out_too: bool
) -> tuple[list[float], list[float]]:
    thresholds = np.arange(0, 4, 0.01)
    accuracies, chosen = [], []
    for fold in np.array_split(np.arange(len(distances)), num_folds):
        others = np.setdiff1d(np.arange(len(distances)), fold)
        shares = [share(distances[others], same[others], threshold) for threshold in thresholds]
        best = thresholds[np.argmax(shares)]
        for threshold in thresholds if left_out_too else ():
            share(distances[fold], same[fold], threshold)
        accuracies.append(share(distances[fold], same[fold], best))
        chosen.append(float(best))
    return accuracies, chosen


def share_right(distances: Distances, same: Labels, threshold: float) -> float:
    """By comparison with the labels."""
    return float(np.mean((distances < threshold) == same))


def share_of_outcomes(distances: Distances, same: Labels, threshold: float) -> float:
    """By the counts of true and false accepts and rejects."""
    accepted = distances < threshold
    true_accepts = np.sum(np.logical_and(accepted, same))
    false_accepts = np.sum(np.logical_and(accepted, ~same))
    true_rejects = np.sum(np.logical_and(~accepted, ~same))
    false_rejects = np.sum(np.logical_and(~accepted, same))
    right = true_accepts + true_rejects
    return float(right / (right + false_accepts + false_rejects))
