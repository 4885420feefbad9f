"""Genuine and impostor pairs: how far apart the recogniser sees them.

Genuine pairs are all counted. Of the impostor pairs (8e10 in a set of 400,000 images) mean and variance are exact
all the same, in closed form; EER, FMR100 and FMR1000 need their distribution, which is that of all of them where
they are few enough, else of those inside blocks of shuffled images: each image then takes part in as many.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.histogram import Histogram
from d2r_fast.recognition.evaluation.roc import Roc, equal_error_rate
from d2r_fast.recognition.quality.centres import class_sizes

NUM_BINS = 2**16
"""Cosines are counted in bins of 3e-5, which is what EER and FNMR are exact to in the threshold."""
TILE = 4096
"""Images compared at once: 64 MiB of cosines."""
Blocks = NDArray[np.int64]
"""Images of some blocks of one size: indices (blocks, size)."""


@dataclass(frozen=True, slots=True)
class Separation:
    """What genuine and impostor cosines amount to; NaN where there are no such pairs.

    Attributes:
        fdr: Fisher discriminant ratio (mu_g - mu_i)^2 / (s_g^2 + s_i^2), above 0.
        d_prime: (mu_g - mu_i) / sqrt((s_g^2 + s_i^2) / 2), Daugman's decidability; negative if reversed.
        eer: equal error rate, 0 to 1.
        fmr100, fmr1000: lowest FNMR at an FMR of at most 1e-2 and 1e-3, 0 to 1; None where there are fewer
            impostor pairs than it takes to see such an FMR.
        num_genuine, num_impostor: all pairs that there are.
        num_sampled: impostor pairs that eer, fmr100 and fmr1000 come from.
    """

    genuine_mean: float
    genuine_std: float
    impostor_mean: float
    impostor_std: float
    fdr: float
    d_prime: float
    eer: float
    fmr100: float | None
    fmr1000: float | None
    num_genuine: int
    num_impostor: int
    num_sampled: int


def separate(
    units: NDArray[np.float32],
    labels: NDArray[np.int64],
    moment: NDArray[np.float64],
    *,
    max_pairs: int,
    seed: int,
) -> Separation:
    """Compare unit rows X (N,D) pair by pair; `moment` is X^T X.

    At most about `max_pairs` impostor pairs are sampled, by `seed`, where there are more.
    """
    num = len(units)
    genuine = _count(units, labels, _classes(labels), same=True)
    impostor = _count(units, labels, _blocks(num, max_pairs, seed), same=False)
    num_impostor = num * (num - 1) // 2 - genuine.num
    mean, std = impostor_moments(units, moment, genuine, num_impostor)
    spread = genuine.std**2 + std**2
    gap = genuine.mean - mean
    roc = roc_of_counts(genuine, impostor) if genuine.num and impostor.num else None
    return Separation(
        genuine_mean=genuine.mean, genuine_std=genuine.std, impostor_mean=mean, impostor_std=std,
        fdr=gap**2 / spread if spread > 0 else float("nan"),
        d_prime=gap / (spread / 2) ** 0.5 if spread > 0 else float("nan"),
        eer=equal_error_rate(roc) if roc else float("nan"),
        fmr100=_fnmr(roc, 1e-2) if roc else None, fmr1000=_fnmr(roc, 1e-3) if roc else None,
        num_genuine=genuine.num, num_impostor=num_impostor, num_sampled=impostor.num,
    )  # fmt: skip


def impostor_moments(
    units: NDArray[np.float32], moment: NDArray[np.float64], genuine: Histogram, num_impostor: int
) -> tuple[float, float]:
    """Mean and population standard deviation of the cosines of all impostor pairs.

    Over all ordered pairs of unit rows, the diagonal with them, cosines sum to |sum x|^2 and their squares to
    |X^T X|_F^2; taking off the diagonal's N ones, halving and taking off the genuine pairs leaves the impostors.
    """
    if num_impostor == 0:
        return float("nan"), float("nan")
    num = len(units)
    total = float(np.square(units.sum(axis=0, dtype=np.float64)).sum()) - num
    squares = float(np.square(moment).sum()) - num
    mean = (total / 2 - genuine.total) / num_impostor
    return mean, max(0.0, (squares / 2 - genuine.total_squares) / num_impostor - mean**2) ** 0.5


def roc_of_counts(genuine: Histogram, impostor: Histogram) -> Roc:
    """The ROC curve of two histograms of the same bins, one point per bin, from the strictest threshold on."""
    far = np.cumsum(impostor.counts[::-1]) / impostor.num
    tar = np.cumsum(genuine.counts[::-1]) / genuine.num
    thresholds = genuine.edges[:-1][::-1]
    return Roc(
        far=np.r_[0.0, far], tar=np.r_[0.0, tar], thresholds=np.r_[np.inf, thresholds],
        num_genuine=genuine.num, num_impostor=impostor.num,
    )  # fmt: skip


def _fnmr(roc: Roc, fmr: float) -> float | None:
    """Lowest FNMR at an FMR of at most `fmr`; None where one impostor pair alone is more than that."""
    if roc.num_impostor * fmr < 1:
        return None
    return float(1 - roc.tar[roc.far <= fmr].max())


def _classes(labels: NDArray[np.int64]) -> Iterator[Blocks]:
    """The images of each class as a block of its own."""
    order, sizes = np.argsort(labels, kind="stable"), class_sizes(labels)
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes[sizes > 1]).tolist():
        blocks = order[starts[sizes == size][:, None] + np.arange(size)]
        yield from _parts(blocks)


def _blocks(num: int, max_pairs: int, seed: int) -> Iterator[Blocks]:
    """Shuffled images in blocks that hold about `max_pairs` pairs together; one block where all pairs fit."""
    if num * (num - 1) // 2 <= max_pairs:
        yield np.arange(num)[None]
        return
    size = max(2, int(2 * max_pairs / num) + 1)
    order = np.random.default_rng(seed).permutation(num)
    whole = num - num % size
    yield from _parts(order[:whole].reshape(-1, size))
    if whole < num:
        yield order[None, whole:]


def _parts(blocks: Blocks) -> Iterator[Blocks]:
    """As many blocks at a time as a tile has room for."""
    step = max(1, min(TILE**2 // blocks.shape[1] ** 2, 4 * TILE // blocks.shape[1]))
    return (blocks[start : start + step] for start in range(0, len(blocks), step))


def _count(
    units: NDArray[np.float32], labels: NDArray[np.int64], groups: Iterable[Blocks], *, same: bool
) -> Histogram:
    """Cosines of the pairs inside each block that have the same label, or another."""
    counted = Histogram(-1.0, 1.0, NUM_BINS)
    for blocks in groups:
        for rows, columns in _tiles(blocks.shape[1]):
            first, second = blocks[:, rows], blocks[:, columns]
            chosen = (labels[first][:, :, None] == labels[second][:, None, :]) == same
            if rows == columns:
                chosen &= np.triu(np.ones(chosen.shape[1:], bool), 1)
            cosines = torch.from_numpy(units[first]) @ torch.from_numpy(units[second]).mT
            counted.add(cosines.numpy()[chosen])
    return counted


def _tiles(size: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles of a block's upper triangle."""
    for row in range(0, size, TILE):
        for column in range(row, size, TILE):
            yield slice(row, min(row + TILE, size)), slice(column, min(column + TILE, size))
