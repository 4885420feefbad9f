"""Ten-fold verification accuracy on a list of pairs, the protocol of LFW and of the sets built like it.

The rules are those of InsightFace's arcface_torch (eval/verification.py) and AdaFace (evaluate_utils.py), which
agree: squared Euclidean distance of unit vectors; folds are runs of the list as it stands; for each fold the
threshold is the first of 0, 0.01, ... 3.99 that is best on the other nine; a pair is accepted where its distance
is strictly below it; accuracy is the mean over folds, and its spread the population standard deviation.

    distances = pair_distances(embeddings)
    folds = ten_fold(distances, same)

One pass decides which threshold first accepts each pair; sums over thresholds and differences of folds give every
count that the protocol asks for, so that thresholds and folds cost nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.inputs import check_norms, finite_values, pair_labels, resolves

NUM_FOLDS = 10
LARGEST = 4.0
"""Squared distance of opposite unit vectors, where thresholds end."""
ROWS_AT_ONCE = 128
"""Embeddings that are compared together, few enough to stay in a processor's cache; an even number."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Folds:
    """What the folds of a set came to.

    Attributes:
        accuracies: (num_folds,) float64, fractions.
        thresholds: (num_folds,) float64, squared distances below which a pair was accepted.
        accuracy: mean of the accuracies.
        std: their population standard deviation.
    """

    accuracies: Floats
    thresholds: Floats
    accuracy: float
    std: float


@dataclass(frozen=True)
class ValAtFar:
    """Share of genuine pairs that are accepted at a false accept rate, averaged over folds.

    Attributes:
        val: mean over folds; None where no threshold reaches the rate.
        std: population standard deviation over folds; None likewise.
        far: mean of the rates that the folds then show; None likewise.
    """

    val: float | None
    std: float | None
    far: float | None

    @property
    def reached(self) -> bool:
        """Whether every fold has pairs of both kinds, and the other folds a threshold for the rate."""
        return self.val is not None


def pair_distances(embeddings: NDArray[np.floating]) -> NDArray[np.floating]:
    """Squared Euclidean distance of the unit vectors of rows 2i and 2i + 1.

    Args:
        embeddings: (2N, D), not normalised, the flipped image's embedding already added. float32 gives float32
            arithmetic, as in AdaFace; anything else float64, as in InsightFace, which adds up in float64.

    Returns:
        (N,), of the arithmetic's type, 0 to 4.

    Raises:
        UserError: an odd number of rows, none, or a row that is zero or not finite.
    """
    if embeddings.ndim != 2 or not len(embeddings) or len(embeddings) % 2:
        raise UserError(
            f"embeddings of shape {embeddings.shape} are no pairs: give (2 N, D), pair i in rows 2i and 2i + 1"
        )
    rows = embeddings if embeddings.dtype == np.float32 else embeddings.astype(np.float64, copy=False)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    check_norms(norms)
    return np.concatenate([_gaps(rows[some] / norms[some, None]) for some in _slices(len(rows))])


def unit_distances(unit: NDArray[np.floating]) -> NDArray[np.floating]:
    """The same of rows (2N, D) that are unit vectors already, as InsightFace's calculate_roc is given them: (N,)."""
    return np.concatenate([_gaps(unit[some]) for some in _slices(len(unit))])


def ten_fold(
    distances: ArrayLike, same: ArrayLike, *, num_folds: int = NUM_FOLDS, step: float = 0.01
) -> Folds:
    """Accuracy of each fold at the threshold that is best on the others.

    Args:
        distances: (N,), of `pair_distances`. float32 is compared with thresholds as it is, not rounded again.
        same: (N,), 1 where a pair shows one person.
        num_folds: runs of the list, the first N mod num_folds of them one pair longer.
        step: distance of neighbouring thresholds.

    Raises:
        UserError: fewer pairs than folds, labels of another number, pairs of one kind alone, or a distance that
            is not finite.
    """
    counts = _count(distances, same, num_folds=num_folds, step=step)
    genuine, impostor = counts.genuine, counts.impostor
    # Right are the genuine pairs that are accepted and the impostor pairs that are not.
    right = counts.accepted_genuine - counts.accepted_impostor + impostor[:, None]
    best = np.argmax(right.sum(axis=0) - right, axis=1)
    accuracies = right[np.arange(num_folds), best] / (genuine + impostor)
    return Folds(accuracies, counts.thresholds[best], float(accuracies.mean()), float(accuracies.std()))


def val_at_far(
    distances: ArrayLike,
    same: ArrayLike,
    *,
    far: float = 1e-3,
    num_folds: int = NUM_FOLDS,
    step: float = 0.001,
) -> ValAtFar:
    """VAL at a false accept rate, as InsightFace's calculate_val means it.

    The threshold of a fold lies where the false accept rate of the others, a straight line between the grid's
    thresholds, takes the value asked for; where it keeps that value for a while, at the end of that stretch.
    (The original interpolates by SciPy's "slinear", which today refuses a rate that stays the same from one
    threshold to the next, as it always does at 0.) A rate that no threshold reaches, that is finer than one impostor
    pair, or that a fold without pairs of one kind leaves open is not reached; the original goes on with threshold 0
    and counts it as a VAL of 0.

    Args:
        distances, same, num_folds, step: as in `ten_fold`.
        far: the false accept rate asked for, above 0 and at most 1.

    Raises:
        UserError: as in `ten_fold`.
    """
    counts = _count(distances, same, num_folds=num_folds, step=step)
    genuine, impostor = counts.genuine, counts.impostor
    others = impostor.sum() - impostor
    if not (genuine.all() and impostor.all() and resolves(int(others.min()), far)):
        return ValAtFar(None, None, None)
    rates = (counts.accepted_impostor.sum(axis=0) - counts.accepted_impostor) / others[:, None]
    if np.any(rates[:, -1] < far):
        return ValAtFar(None, None, None)
    thresholds = np.array([np.interp(far, rate, counts.thresholds) for rate in rates])
    accepted = counts.values < thresholds[counts.fold]
    vals = _per_fold(counts, accepted & counts.same) / genuine
    fars = _per_fold(counts, accepted & ~counts.same) / impostor
    return ValAtFar(float(vals.mean()), float(vals.std()), float(fars.mean()))


def _slices(num_rows: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, num_rows, ROWS_AT_ONCE))


def _gaps(unit: NDArray[np.floating]) -> NDArray[np.floating]:
    gaps = unit[0::2] - unit[1::2]
    squared: NDArray[np.floating] = np.square(gaps, out=gaps).sum(axis=1)
    return squared


@dataclass(frozen=True, eq=False)
class _Counts:
    """Pairs of each fold, and how many of them each threshold accepts, (num_folds, num_thresholds)."""

    values: Floats
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    thresholds: Floats
    accepted_genuine: NDArray[np.int64]
    accepted_impostor: NDArray[np.int64]

    @property
    def genuine(self) -> NDArray[np.int64]:
        return _per_fold(self, self.same)

    @property
    def impostor(self) -> NDArray[np.int64]:
        return _per_fold(self, ~self.same)


def _count(distances: ArrayLike, same: ArrayLike, *, num_folds: int, step: float) -> _Counts:
    values = finite_values(distances, "distances")
    labels = pair_labels(same, len(values))
    if len(values) < num_folds:
        raise UserError(
            f"{len(values)} pairs cannot be cut into {num_folds} folds: give a list of at least {num_folds} pairs"
        )
    thresholds = np.arange(0, LARGEST, step)
    # "right": a pair at a threshold's very distance is accepted by the next one.
    first = np.searchsorted(thresholds, values, side="right")
    fold = np.repeat(np.arange(num_folds), _fold_sizes(len(values), num_folds))
    num_places = len(thresholds) + 1  # the last is for pairs that no threshold accepts
    places = (labels * num_folds + fold) * num_places + first
    counted = np.bincount(places, minlength=2 * num_folds * num_places).reshape(2, num_folds, num_places)
    accepted = counted[:, :, :-1].cumsum(axis=2)
    return _Counts(values, labels, fold, thresholds, accepted[1], accepted[0])


def _fold_sizes(num_pairs: int, num_folds: int) -> NDArray[np.int64]:
    return num_pairs // num_folds + (np.arange(num_folds) < num_pairs % num_folds)


def _per_fold(counts: _Counts, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.bincount(counts.fold[chosen], minlength=int(counts.fold[-1]) + 1)
