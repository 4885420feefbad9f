"""Effective rank: over how many directions the embeddings spread."""

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.recognition.quality.centres import slices

NOISE = 1e-12
"""Share of all energy below which a direction is rounding."""


def second_moment(units: NDArray[np.float32]) -> NDArray[np.float64]:
    """X^T X of the rows X (N,D): float64 (D,D)."""
    total = torch.zeros(units.shape[1], units.shape[1], dtype=torch.float64)
    for rows in slices(len(units)):
        block = torch.from_numpy(units[rows]).double()
        total.addmm_(block.T, block)
    return total.numpy()


def within_moment(
    moment: NDArray[np.float64], sums: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The same of the rows less the mean of their class, from that of the rows and the classes' sums (C,D) and
    sizes (C,): float64 (D,D).

    Of a class of n rows x with sum S, sum (x - S/n)(x - S/n)^T = sum x x^T - S S^T / n.
    """
    scaled = sums / np.sqrt(sizes)[:, None]
    within: NDArray[np.float64] = moment - scaled.T @ scaled
    return within


def effective_rank(moment: NDArray[np.float64], *, energy: float) -> float:
    """exp of the entropy of the normalised singular values of X, from X^T X (D,D).

        p_k = s_k / sum s,   erank = exp(-sum p_k ln p_k)

    (Roy and Vetterli, The effective rank, EUSIPCO 2007.) From 1 to min(N,D), and 0 of a matrix of zeros: values
    below NOISE of `energy`, the trace of the uncentred moment, are rounding. It grows with the number of images,
    so compare sets of like size.
    """
    eigenvalues = np.linalg.eigvalsh(moment)
    return _spread(np.sqrt(eigenvalues[eigenvalues > NOISE * energy]))


def vendi_score(moment: NDArray[np.float64]) -> float:
    """exp of the entropy of the eigenvalues of the cosine kernel X X^T / N, from X^T X (D,D) of unit rows.

    (Friedman and Dieng, The Vendi Score, TMLR 2023.) From 1 to min(N,D): the number of images that all differ
    and are together as diverse as these.
    """
    eigenvalues = np.linalg.eigvalsh(moment)
    return _spread(eigenvalues[eigenvalues > NOISE * np.trace(moment)])


def _spread(values: NDArray[np.float64]) -> float:
    """exp of the entropy of positive values after they are made to sum to 1; 0 where there are none."""
    if not values.size:
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
