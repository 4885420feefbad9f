"""Distance of two sets of pictures: the squared maximum mean discrepancy with the kernel of KID.

Binkowski et al., "Demystifying MMD GANs", ICLR 2018: k(x, y) = (x . y / D + 1)^3, estimated without bias, so that two
samples of one distribution come to 0 on average, now a little below and now a little above.
"""

from collections.abc import Sequence

import numpy as np

from d2r_fast.translation.compare.features import Features


def squared_mmd(first: Features, second: Features) -> float:
    """Unbiased estimate from features (N, D) and (M, D), N and M at least 2.

    Raises:
        ValueError: a set has fewer than two rows, or the widths differ.
    """
    if min(len(first), len(second)) < 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features {first.shape} and {second.shape}: give two rows or more of equal width")
    within = sum(_mean_of_pairs(rows) for rows in (first, second))
    return float(within - 2 * _kernel(first, second).mean())


def halves(
    rows: Features, *, seed: int, groups: Sequence[str] | None = None, num_splits: int = 10
) -> list[float]:
    """Distances between halves of one set, `num_splits` times: how large a distance that means nothing is.

    Args:
        groups: rows of one group, as a person's, stay together.

    Raises:
        ValueError: a half would have fewer than two rows.
    """
    random = np.random.Generator(np.random.Philox(key=seed))
    names = np.arange(len(rows)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    found = []
    for _ in range(num_splits):
        order = random.permutation(int(names.max()) + 1)
        chosen = np.isin(names, order[: len(order) // 2])
        found.append(squared_mmd(rows[chosen], rows[~chosen]))
    return found


def _mean_of_pairs(rows: Features) -> float:
    """Mean of the kernel over pairs of different rows."""
    kernel = _kernel(rows, rows)
    num = len(rows)
    return float((kernel.sum() - np.trace(kernel)) / (num * (num - 1)))


def _kernel(first: Features, second: Features) -> Features:
    kernel: Features = (first @ second.T / first.shape[1] + 1) ** 3
    return kernel
