"""Ten-fold accuracy as it is commonly computed: one threshold after another, and every fold anew.

A baseline, kept plain on purpose, and to the same rules as `recognition/evaluation/folds.py`. It does less than the
scripts that are commonly run: they also count true and false accepts of the left-out fold at every threshold, which
nobody reads.
"""

import numpy as np
from numpy.typing import NDArray


def plain_ten_fold(
    distances: NDArray[np.floating], same: NDArray[np.bool_], *, num_folds: int = 10
) -> tuple[list[float], list[float]]:
    """Accuracy and threshold of each fold."""
    thresholds = np.arange(0, 4, 0.01)
    accuracies, chosen = [], []
    for fold in np.array_split(np.arange(len(distances)), num_folds):
        others = np.setdiff1d(np.arange(len(distances)), fold)
        shares = [share_right(distances[others], same[others], threshold) for threshold in thresholds]
        best = thresholds[np.argmax(shares)]
        accuracies.append(share_right(distances[fold], same[fold], best))
        chosen.append(float(best))
    return accuracies, chosen


def share_right(distances: NDArray[np.floating], same: NDArray[np.bool_], threshold: float) -> float:
    """Share of pairs that the threshold judges rightly."""
    return float(np.mean((distances < threshold) == same))
