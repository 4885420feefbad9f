"""Scaling square images down and up again as OpenCV does, each with an interpolation and a size of its own.

Resizing is linear in the pixels of a line, so it is a matrix for each (interpolation, size), and a batch of
resizes two batched matrix products. OpenCV's weights for 8-bit images are whole multiples of 1/2048, except
for its area averages; with those weights the products are whole numbers in float64 and so exact, whatever
else is in the batch. Taps beyond an edge count as the edge's pixel. Nothing is smoothed before it is scaled
down, except by `area`: nearest, linear, cubic and lanczos4 alias, as they do in OpenCV.
"""

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

Interpolation = Literal["nearest", "linear", "area", "cubic", "lanczos4"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)

_STEPS = 2048
_CUBIC = -0.75
_NEGLIGIBLE = 1e-3
"""Part of a pixel that OpenCV's area average leaves out."""


def down_up(
    images: torch.Tensor, sizes: torch.Tensor, downs: torch.Tensor, ups: torch.Tensor
) -> torch.Tensor:
    """Images uint8 (N, C, S, S) scaled to sizes x sizes pixels and back to S, both rounded to 8 bits.

    sizes (N,) int64 in 1 to S; downs and ups (N,) int64 count INTERPOLATIONS.
    """
    side = images.shape[-1]
    down, up = _tables(side, images.device)
    return separable(separable(images, down[downs, sizes - 1]), up[ups, sizes - 1])


def separable(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Images uint8 (N, C, S, S) with `matrices` (N, T, S) applied to columns and rows: uint8 (N, C, T, T)."""
    num, channels, side = images.shape[:3]
    target, weights = matrices.shape[1], matrices.double()
    # The channels of an image lie side by side: a product with a matrix of its own for each would copy the matrix.
    across = torch.bmm(images.reshape(num, channels * side, side).double(), weights.mT)
    across = across.view(num, channels, side, target).transpose(1, 2).reshape(num, side, channels * target)
    both = torch.bmm(weights, across).add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)
    return both.view(num, target, channels, target).transpose(1, 2).contiguous()


@lru_cache(maxsize=4)
def _tables(side: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices of every interpolation to and from every size, padded with zeros: float32 (5, S, S, S) each.

    float32 holds the weights exactly: OpenCV's own are float32 or multiples of 1/2048.
    """
    down = np.zeros((len(INTERPOLATIONS), side, side, side), np.float32)
    up = np.zeros_like(down)
    for kind, name in enumerate(INTERPOLATIONS):
        for size in range(1, side + 1):
            down[kind, size - 1, :size] = resize_matrix(name, side, size)
            up[kind, size - 1, :, :size] = resize_matrix(name, size, side)
    return torch.from_numpy(down).to(device), torch.from_numpy(up).to(device)


def resize_matrix(interpolation: Interpolation, source: int, target: int) -> NDArray[np.float64]:
    """Weights (target, source) of a line of `source` pixels in each of `target`, as OpenCV has them for uint8."""
    if interpolation == "nearest":
        return _nearest(source, target)
    if interpolation == "area":
        return _area(source, target) if target <= source else _scatter(*_area_up(source, target), source)
    taps = {"linear": _linear, "cubic": _cubic, "lanczos4": _lanczos}[interpolation]
    return _scatter(*taps(*_positions(source, target)), source)


def _scale(source: int, target: int) -> float:
    """source / target with OpenCV's rounding, which decides where a position falls on a whole number."""
    return 1 / (target / source)


def _positions(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The pixel at or before each target pixel's centre, and how far beyond it the centre lies, in [0, 1)."""
    centre = ((np.arange(target) + 0.5) * _scale(source, target) - 0.5).astype(np.float32)
    first = np.floor(centre)
    return first.astype(np.int64), (centre - first).astype(np.float64)


Taps = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Where the taps of each target pixel lie, and their weights: (target, taps) each."""


def _scatter(places: NDArray[np.int64], weights: NDArray[np.float64], source: int) -> NDArray[np.float64]:
    matrix = np.zeros((len(places), source))
    fixed = np.rint(weights.astype(np.float32) * _STEPS) / _STEPS
    np.add.at(matrix, (np.arange(len(places))[:, None], places.clip(0, source - 1)), fixed)
    return matrix


def _linear(first: NDArray[np.int64], far: NDArray[np.float64]) -> Taps:
    return first[:, None] + np.arange(2), np.stack([1 - far, far], 1)


def _cubic(first: NDArray[np.int64], far: NDArray[np.float64]) -> Taps:
    """Keys' cubic convolution with a = -0.75."""
    distance = np.abs(far[:, None] - np.arange(-1, 3))
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    outer = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return first[:, None] + np.arange(-1, 3), np.where(distance <= 1, near, outer)


def _lanczos(first: NDArray[np.int64], far: NDArray[np.float64]) -> Taps:
    distance = far[:, None] - np.arange(-3, 5)
    weights = np.sinc(distance) * np.sinc(distance / 4)
    return first[:, None] + np.arange(-3, 5), weights / weights.sum(1, keepdims=True)


def _nearest(source: int, target: int) -> NDArray[np.float64]:
    places = np.floor(np.arange(target) * _scale(source, target)).astype(np.int64).clip(max=source - 1)
    matrix = np.zeros((target, source))
    matrix[np.arange(target), places] = 1
    return matrix


def _area_up(source: int, target: int) -> Taps:
    """Enlarging by area is linear between pixels that are flat except where two of them meet."""
    pixel = np.arange(target)
    first = np.floor(pixel * _scale(source, target))
    far = (pixel + 1 - (first + 1) * (target / source)).astype(np.float32)
    return _linear(first.astype(np.int64), np.where(far <= 0, 0, far - np.floor(far)).astype(np.float64))


def _area(source: int, target: int) -> NDArray[np.float64]:
    """Each target pixel averages the stretch of the line that it covers."""
    scale = source / target
    start = np.arange(target)[:, None] * scale
    end = np.minimum(start + scale, source)
    pixel = np.arange(source)
    covered = (np.minimum(end, pixel + 1) - np.maximum(start, pixel)).clip(min=0)
    covered[covered <= _NEGLIGIBLE] = 0
    weights: NDArray[np.float64] = (covered / (end - start)).astype(np.float32).astype(np.float64)
    return weights
