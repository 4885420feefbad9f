"""What JPEG does to a picture, on batches and on any device: the loss without the file.

Baseline JPEG as Pillow writes it by default: YCbCr with colour at half the resolution, an 8x8 cosine transform,
the standard's example tables (ITU-T T.81, Annex K) scaled by the quality, and back, with colour interpolated as
libjpeg does. Entropy coding loses nothing and is left out.
"""

import math
from functools import lru_cache

import torch
from torch.nn.functional import avg_pool2d, pad

_LIGHT = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22,
    29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103,
    121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_COLOUR = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99,
    99, 99, 99, 99, *[99] * 32,
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))
BLOCK = 16
"""Sides must be multiples of this: 8x8 blocks of colour at half the resolution."""


def jpeg(images: torch.Tensor, qualities: torch.Tensor) -> torch.Tensor:
    """Images uint8 (N, 3, H, W) RGB as they come back from JPEG files of `qualities` (N,), 1 to 100."""
    assert images.shape[2] % BLOCK == images.shape[3] % BLOCK == 0, "sides are no multiples of 16"
    scale = _scale(qualities.to(images.device).double())
    ycc = _mixed(images.double(), _TO_YCC)
    ycc[:, 1:] += 128
    ycc = ycc.round_()
    light = _coded(ycc[:, :1], _table(_LIGHT, scale))
    colour = _coded(avg_pool2d(ycc[:, 1:], 2).add_(0.5).floor_(), _table(_COLOUR, scale))
    return (
        _mixed(torch.cat([light, _enlarged(colour) - 128], 1), _TO_RGB)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
    )


def _mixed(images: torch.Tensor, matrix: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    weights = torch.tensor(matrix, dtype=torch.float64, device=images.device)
    return torch.einsum("oc,nchw->nohw", weights, images)


def _scale(quality: torch.Tensor) -> torch.Tensor:
    """Per cent by which the tables are scaled."""
    return torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)


def _table(table: tuple[int, ...], scale: torch.Tensor) -> torch.Tensor:
    base = torch.tensor(table, dtype=torch.float64, device=scale.device)
    return ((base * scale[:, None] + 50) / 100).floor().clamp(1, 255).view(-1, 1, 1, 8, 1, 8)


def _coded(planes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Planes (N, C, H, W), 0 to 255, after their cosine transform was rounded to multiples of the table."""
    num, channels, height, width = planes.shape
    blocks = planes.sub(128).view(num, channels, height // 8, 8, width // 8, 8)
    basis = _basis(planes.device)
    waves = torch.einsum("ui,ncyixj,vj->ncyuxv", basis, blocks, basis)
    waves = (waves / table).round_() * table
    back = torch.einsum("ui,ncyuxv,vj->ncyixj", basis, waves, basis)
    return back.reshape(planes.shape).add_(128).round_().clamp_(0, 255)


@lru_cache(maxsize=4)
def _basis(device: torch.device) -> torch.Tensor:
    """The orthonormal 8-point cosine transform."""
    rows = [
        [math.cos((2 * i + 1) * u * math.pi / 16) * math.sqrt((1 + (u > 0)) / 8) for i in range(8)]
        for u in range(8)
    ]
    return torch.tensor(rows, dtype=torch.float64, device=device)


def _enlarged(planes: torch.Tensor) -> torch.Tensor:
    """Twice the size: each new pixel takes 3/4 of the nearest and 1/4 of the next, down and across."""
    for axis in (2, 3):
        around = pad(planes, (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0), mode="replicate")
        length = planes.shape[axis]
        before, after = around.narrow(axis, 0, length), around.narrow(axis, 2, length)
        planes = torch.stack([3 * planes + before, 3 * planes + after], axis + 1).flatten(axis, axis + 1) / 4
    return planes.round_()
