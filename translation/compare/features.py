"""A fixed space in which to tell how pictures look: texture, colour and spectrum, from arithmetic alone.

No network and no download: filters are drawn from a fixed seed, so that a figure can be had again anywhere. The space
sees what a camera adds (colour cast, contrast, blur, noise, grain, compression) and next to nothing of who is shown.
Distances in it compare with each other, for one space and one real set, and with no published KID, which is taken in
Inception's features.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from d2r_fast.kernels.noise import identity_key, normal

NUM_LEVELS, NUM_FILTERS, FILTER_SIDE = 4, 32, 5
"""Of the texture: octaves, and filters in each; a filter weighs all three colours."""
NUM_BANDS = 8
"""Of the spectrum: octave-like bands from one period per picture to the finest."""
LEAST = 1e-3
"""Added before a logarithm: an eighth of one of 255 steps."""
BATCH = 64
Features = NDArray[np.float64]
"""(N, D)."""
_SEED = 20_180_103
# Orthogonal: light, yellow against blue, red against green.
_OPPONENT = ((0.5774, 0.5774, 0.5774), (0.4082, 0.4082, -0.8165), (0.7071, -0.7071, 0.0))


def measure_features(pictures: NDArray[np.uint8], *, side: int) -> Features:
    """Features of pictures uint8 (N, H, W, 3) RGB; row i depends on picture i and `side` alone.

    Args:
        side: pictures of another size are resized to it first, antialiased where they shrink.
    """
    rows = []
    for first in range(0, len(pictures), BATCH):
        part = torch.from_numpy(pictures[first : first + BATCH]).permute(0, 3, 1, 2).float() / 255
        if part.shape[2:] != (side, side):
            part = interpolate(part, (side, side), mode="bilinear", antialias=True)
        opponent = torch.einsum("ij,njhw->nihw", torch.tensor(_OPPONENT), part)
        rows.append(torch.cat([texture(part), colour(opponent), spectrum(opponent)], 1).double())
    return torch.cat(rows).numpy()


def texture(pictures: Tensor) -> Tensor:
    """(N, 2 x levels x filters): logarithm of mean and of standard deviation of every filter's strength."""
    found, level = [], pictures
    filters = _filters().to(pictures)
    for number in range(NUM_LEVELS):
        strength = conv2d(level, filters).abs()
        found += [(strength.mean((2, 3)) + LEAST).log(), (strength.std((2, 3)) + LEAST).log()]
        if number + 1 < NUM_LEVELS and min(level.shape[2:]) >= 2 * FILTER_SIDE:
            level = avg_pool2d(level, 2)
    return torch.cat(found, 1)


def colour(opponent: Tensor) -> Tensor:
    """(N, 3 x 7): of light and both oppositions mean, standard deviation, and five quantiles."""
    values = opponent.flatten(2)
    points = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=values.dtype)
    quantiles = values.quantile(points, dim=2).permute(1, 2, 0).flatten(1)
    return torch.cat([values.mean(2), values.std(2), quantiles], 1)


def spectrum(opponent: Tensor) -> Tensor:
    """(N, 3 x bands): logarithm of the mean amplitude in rings of the picture's windowed Fourier transform."""
    side = opponent.shape[2]
    window = torch.hann_window(side, periodic=False, dtype=opponent.dtype)
    centred = opponent - opponent.mean((2, 3), keepdim=True)
    amplitude = torch.fft.rfft2(centred * window[:, None] * window, norm="ortho").abs()
    y, x = torch.fft.fftfreq(side)[:, None] * side, torch.fft.rfftfreq(side) * side
    radius = (y * y + x * x).sqrt()
    edges = torch.logspace(0, math.log10(side / 2), NUM_BANDS + 1)
    rings = [(radius >= low) & (radius < high) for low, high in pairwise(edges.tolist())]
    bands = [
        amplitude[:, :, ring].mean(2) if ring.any() else amplitude.new_zeros(len(amplitude), 3)
        for ring in rings
    ]
    return (torch.stack(bands, 2) + LEAST).log().flatten(1)


def _filters() -> Tensor:
    """(F, 3, S, S): zero mean, unit length, the same everywhere."""
    key = torch.tensor([[identity_key(_SEED, "texture"), 0, 0, 0]])
    drawn = normal(key, (NUM_FILTERS, 3, FILTER_SIDE, FILTER_SIDE))[0].flatten(1)
    drawn = drawn - drawn.mean(1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
    return (drawn / length).reshape(NUM_FILTERS, 3, FILTER_SIDE, FILTER_SIDE)


@dataclass(frozen=True)
class Space:
    """Features with each one's mean taken away and divided by its standard deviation over given pictures.

    Made of the untranslated and the real pictures together, so that all translations of one source are measured in
    one space and no feature weighs more for being counted in larger numbers.
    """

    side: int
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def over(cls, *sets: NDArray[np.uint8], side: int) -> Self:
        """The space over sets of pictures uint8 (N, H, W, 3); every set weighs alike."""
        found = [measure_features(pictures, side=side) for pictures in sets]
        mean = np.mean([rows.mean(0) for rows in found], 0)
        variance = np.mean([((rows - mean) ** 2).mean(0) for rows in found], 0)
        return cls(side, mean, np.where(variance > 1e-12, np.sqrt(variance), 1.0))

    def __call__(self, pictures: NDArray[np.uint8]) -> Features:
        """Coordinates float64 (N, D) of pictures uint8 (N, H, W, 3)."""
        placed: Features = (measure_features(pictures, side=self.side) - self.mean) / self.scale
        return placed
