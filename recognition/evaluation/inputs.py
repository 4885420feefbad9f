"""What the protocols are given, checked: labels of pairs, lengths of embeddings, rates that pairs can show."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2r_fast.engine.errors import UserError


def pair_labels(same: ArrayLike, num_pairs: int) -> NDArray[np.bool_]:
    """Whether each pair shows one person, as bool (num_pairs,).

    Args:
        same: (num_pairs,), booleans or numbers 0 and 1.
        num_pairs: how many there must be.

    Raises:
        UserError: another number of labels, a label that is neither 0 nor 1, or pairs of one kind alone.
    """
    given = np.asarray(same)
    if given.shape != (num_pairs,):
        raise UserError(f"{num_pairs} pairs have labels of shape {given.shape}: give one label per pair")
    labels = given.astype(bool)
    if not np.array_equal(labels, given):
        odd = given[labels != given][0]
        raise UserError(f"label {odd} of a pair: labels are 1 for one person and 0 for two")
    num_genuine = int(labels.sum())
    if num_genuine in (0, num_pairs):
        kind = "one person" if num_genuine else "two people"
        raise UserError(f"all {num_pairs} pairs are of {kind}: accuracy and rates need pairs of both kinds")
    return labels


def finite_values(values: ArrayLike, what: str) -> NDArray[np.float64]:
    """Numbers (P,) as float64.

    Raises:
        UserError: they are no list of numbers, or one of them is NaN or infinite; the line names `what`.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1:
        raise UserError(f"{what} have shape {numbers.shape}: give one number per pair")
    good = np.isfinite(numbers)
    if not good.all():
        first = int(np.argmin(good))
        raise UserError(
            f"{numbers.size - int(good.sum())} of {numbers.size} {what} are not finite, the first is number "
            f"{first} ({numbers[first]}): find out which image or network gave it"
        )
    return numbers


def check_norms(norms: NDArray[np.floating], rows: NDArray[np.integer] | None = None) -> None:
    """Refuses embeddings that have no direction.

    Args:
        norms: (N,), lengths of embeddings.
        rows: (N,), the numbers that the embeddings have for the caller. Default: 0 to N - 1.

    Raises:
        UserError: a length is zero, NaN or infinite.
    """
    good = np.isfinite(norms) & (norms > 0)
    if good.all():
        return
    first = int(np.argmin(good))
    row = first if rows is None else int(rows[first])
    state = "zero" if norms[first] == 0 else "not finite"
    raise UserError(
        f"embedding {row} is {state}, length {norms[first]}: it has no direction, and nothing can be compared "
        "with it; find out which image or network gave it"
    )


def resolves(num_impostor: int, far: float) -> bool:
    """Whether one pair among so many is no larger a share than a false accept rate."""
    # 1 / 1e-6 may come out a little above 1,000,000; that many pairs are enough.
    return num_impostor >= math.ceil(1 / far - 1e-6)
