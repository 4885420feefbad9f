"""Unit rows, and the centre of each identity: what every measure starts from.

Labels are int64 (N,) in 0..C-1 throughout, and every class has an image.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError

ROWS = 16384
"""Rows taken to double precision at a time: 64 MiB at 512 values."""


def unit_rows(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings (N,D), finite and not zero, each divided by its norm: float32 (N,D)."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert np.isfinite(norms).all(), "embeddings are finite"
    assert (norms > 0).all(), "embeddings are not zero"
    units: NDArray[np.float32] = (embeddings / norms).astype(np.float32, copy=False)
    return units


def class_sizes(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Images of each class: (C,)."""
    sizes = np.bincount(labels)
    assert sizes.min() > 0, "every class has an image"
    return sizes


def class_sums(units: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of each class's unit rows: float64 (C,D)."""
    sums = torch.zeros(int(labels.max()) + 1, units.shape[1], dtype=torch.float64)
    for rows in slices(len(units)):
        sums.index_add_(0, torch.from_numpy(labels[rows]), torch.from_numpy(units[rows]).double())
    return sums.numpy()


def class_centres(
    sums: NDArray[np.float64], *, class_names: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """Mean of each class's unit rows, normalised again, from their sums (C,D): float32 (C,D) unit rows.

    `class_names` are what messages call the C classes; by default their numbers.

    Raises:
        UserError: the rows of a class cancel out.
    """
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    if (norms < 1e-6).any():
        place = int(np.argmin(norms))
        name = place if class_names is None else class_names[place]
        raise UserError(f"the embeddings of identity {name} cancel out, it has no centre: leave it out")
    centres: NDArray[np.float32] = (sums / norms).astype(np.float32)
    return centres


def own_cosines(
    units: NDArray[np.float32], labels: NDArray[np.int64], centres: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cosine of each image to the centre of its own class: float32 (N,). 1 for the one image of a class."""
    parts = [np.einsum("nd,nd->n", units[rows], centres[labels[rows]]) for rows in slices(len(units))]
    return np.concatenate(parts)


def other_cosines(
    units: NDArray[np.float32], labels: NDArray[np.int64], sums: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Cosine of each image to the centre of the other images of its class: float64 (N,).

    Over a unit row x and its class's sum S, cos(x, S - x) = (x.S - 1) / sqrt(|S|^2 - 2 x.S + 1). NaN for the one
    image of a class, 0 where the others cancel out.
    """
    squares, sizes = np.square(sums).sum(axis=1), class_sizes(labels)
    own = np.concatenate(
        [np.einsum("nd,nd->n", units[rows], sums[labels[rows]]) for rows in slices(len(units))]
    )
    left = np.sqrt(np.maximum(squares[labels] - 2 * own + 1, 0))
    cosines: NDArray[np.float64] = np.divide(own - 1, left, out=np.zeros_like(own), where=left > 1e-6)
    cosines[sizes[labels] == 1] = np.nan
    return np.clip(cosines, -1, 1)


def slices(num: int, step: int = ROWS) -> Iterator[slice]:
    """0..num in pieces."""
    return (slice(start, min(start + step, num)) for start in range(0, num, step))
