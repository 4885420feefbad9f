"""k-NN label consistency: do an image's nearest neighbours bear its label?"""

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.recognition.quality.centres import class_sizes, slices

QUERIES, COLUMNS = 1024, 16384  # 64 MiB of cosines at a time


def choose_queries(labels: NDArray[np.int64], *, num_queries: int, seed: int) -> NDArray[np.int64]:
    """Up to `num_queries` images of classes that have another image, in order: all of them, or a seeded choice."""
    usable = np.flatnonzero(class_sizes(labels)[labels] > 1)
    if len(usable) <= num_queries:
        return usable
    return np.sort(np.random.default_rng(seed).choice(usable, num_queries, replace=False))


def neighbour_consistency(
    units: NDArray[np.float32], labels: NDArray[np.int64], queries: NDArray[np.int64], *, k: int
) -> float:
    """Mean share of an image's nearest neighbours among all other images that bear its label, 0 to 1.

    Of a class of n images min(k, n - 1) neighbours are looked at, so that a class whose images keep together
    scores 1 whatever its size. Neighbour-Consistency of Intrinsic Quality (arXiv 2605.29720), in the space of the
    recogniser at hand. `queries` are indices into the N rows. NaN where there are none.
    """
    if not len(queries):
        return float("nan")
    sizes = class_sizes(labels)
    shares = [
        _shares(units, labels, queries[part], np.minimum(k, sizes[labels[queries[part]]] - 1))
        for part in slices(len(queries), QUERIES)
    ]
    return float(np.concatenate(shares).mean())


def _shares(
    units: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.int64],
    wanted: NDArray[np.int64],
) -> NDArray[np.float64]:
    """For each query (Q,), the share of its `wanted` (Q,) nearest others that bear its label."""
    found = labels[_nearest(torch.from_numpy(units), torch.from_numpy(queries), int(wanted.max()))]
    same = found == labels[queries][:, None]
    counted = np.arange(same.shape[1]) < wanted[:, None]
    shares: NDArray[np.float64] = (same & counted).sum(axis=1) / wanted
    return shares


def _nearest(rows: torch.Tensor, queries: torch.Tensor, k: int) -> NDArray[np.int64]:
    """The k rows of the highest cosine to each query but itself: (Q,k) indices, the nearest first."""
    wanted = rows[queries]
    values = torch.full((len(queries), k), -torch.inf)
    places = torch.zeros((len(queries), k), dtype=torch.int64)
    for columns in slices(len(rows), COLUMNS):
        cosines = wanted @ rows[columns].T
        inside = (queries >= columns.start) & (queries < columns.stop)
        cosines[inside, queries[inside] - columns.start] = -torch.inf
        near, where = cosines.topk(min(k, cosines.shape[1]), dim=1)
        values, order = torch.cat([values, near], dim=1).topk(k, dim=1)
        places = torch.cat([places, where + columns.start], dim=1).gather(1, order)
    return places.numpy()
