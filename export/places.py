"""Where the pixels of a map lie that is kept as rows (export/rows.py)."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from onnxscript import ir

from d2r_fast.export.node import Array, ints, shape_of
from d2r_fast.export.winograd import KERNEL, POINTS, transforms, window_of

LEAST_CHANNELS = 64
"""Of a convolution, on both sides, from which on it is faster in rows."""
TILES = tuple(sorted(POINTS, reverse=True))
"""Sides of tiles: the larger, the fewer multiplications and the more weights."""
LEAST_TILES = 32
"""Of a map: with fewer, reading more weights costs more than the multiplications do."""
MOST_TILES = 256
"""That go through the matrix products at once: more would not stay in a core's cache."""
FEW_CHANNELS = 4
"""A map of so few is brought to planes where it meets planes, a wider one to rows."""
MEAN_STEP = 256
"""Rows that are averaged before the averages are, so that float32 keeps its digits."""
ZERO = -1
"""The place of a pixel that is zero."""


@dataclass(frozen=True)
class Map:
    """A map (1, C, H, W) as rows.

    Attributes:
        rows: (R, C) float32.
        place: (H, W), the row of each pixel, or ZERO.
        groups: in how many groups of channels it was reshaped to be normalised.
    """

    rows: ir.Value
    place: Array
    groups: int = 0

    @property
    def num_rows(self) -> int:
        return shape_of(self.rows)[0]

    @property
    def num_channels(self) -> int:
        return shape_of(self.rows)[1]

    @property
    def is_whole(self) -> bool:
        """Whether every row is one pixel's."""
        return self.place.size == self.num_rows and bool(
            (np.sort(self.place, axis=None) == np.arange(self.num_rows)).all()
        )


def padded(x: Map, pads: tuple[int, ...]) -> Map:
    top, left, bottom, right = pads
    place = np.pad(x.place, ((top, bottom), (left, right)), constant_values=ZERO)
    return replace(x, place=place)


def inner(place: Array) -> tuple[int, int]:
    """Height and width of what a 3x3 kernel makes of a map."""
    height, width = place.shape
    return height - KERNEL + 1, width - KERNEL + 1


def thinned(x: Map, stride: int) -> Map:
    return replace(x, place=x.place[::stride, ::stride])


def is_range(x: Map) -> bool:
    return x.num_rows == x.place.size and bool((x.place.ravel() == np.arange(x.num_rows)).all())


def parts(num_tiles: int) -> list[slice]:
    """Tiles in about equal parts that are not too many at once."""
    edges = np.linspace(0, num_tiles, -(-num_tiles // MOST_TILES) + 1).astype(int)
    return [slice(first, last) for first, last in pairwise(edges)]


def tile_of(size: tuple[int, ...]) -> int | None:
    """The largest side of which a map has tiles enough; None of too small a map."""
    return next((tile for tile in TILES if num_tiles(size, tile) >= LEAST_TILES), None)


def num_tiles(size: tuple[int, ...], tile: int) -> int:
    return math.prod(_tiles(size, tile))


def _tiles(size: tuple[int, ...], tile: int) -> list[int]:
    """Down and across."""
    return [-(-side // tile) for side in size]


def tile_windows(place: Array, tile: int) -> Array:
    """(window's places, tiles), of a map that has its border: which rows stand at each place of each tile's window;
    beyond the map any."""
    size, window = inner(place), window_of(tile)
    tiles = _tiles(size, tile)
    beyond = [(0, count * tile - side) for count, side in zip(tiles, size, strict=True)]
    padded = np.pad(place, beyond, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window))[::tile, ::tile]
    return windows.reshape(-1, window**2).T


def tiled(size: tuple[int, ...], tile: int) -> Array:
    """(H, W): the row of each pixel as `_winograd` leaves them, by part, by place in the tile, by tile."""
    height, width = _tiles(size, tile)
    rows = np.empty((tile**2, height * width), np.int64)
    for part in parts(height * width):
        num = part.stop - part.start
        rows[:, part] = np.arange(tile**2 * num).reshape(tile**2, num) + tile**2 * part.start
    place = rows.reshape(tile, tile, height, width).transpose(2, 0, 3, 1).reshape(tile * height, tile * width)
    return place[: size[0], : size[1]]


def compact(size: tuple[int, ...]) -> Array:
    """(H, W): a row for each pixel, as `tiled` where the map is whole tiles."""
    tile = tile_of(size)
    if tile is None or any(side % tile for side in size):
        return np.arange(math.prod(size)).reshape(size)
    return tiled(size, tile)


def kernel_of(weights: Array, tile: int) -> Array:
    """(phases, D, C, 3, 3) -> (36 of a tile of 4 or 16 of one of 2, C, phases D)."""
    _, kernel, _ = transforms(tile)
    phases, num, channels = weights.shape[:3]
    flat = weights.astype(np.float64).reshape(-1, KERNEL**2)
    products: Array = (kernel.numpy() @ flat.T).reshape(-1, phases * num, channels)
    return products.transpose(0, 2, 1)


def phases_of(first: ir.Node, then: ir.Node, weight: Array, blur: Array) -> Array | None:
    """(4, D, C, 3, 3) of a transposed convolution and a depthwise one after it; None where they are no such.

    What one pixel becomes is tried out.
    """
    if ints(first, "strides", (1, 1)) != (2, 2) or len(blur) != weight.shape[1] or blur.shape[1] != 1:
        return None
    side, centre = 7, 3
    impulse = torch.zeros(1, 1, side, side, dtype=torch.float64)
    impulse[..., centre, centre] = 1
    pads = ints(first, "pads", (0, 0, 0, 0)), ints(then, "pads", (0, 0, 0, 0))
    if any(len(set(each)) > 1 for each in pads) or ints(then, "strides", (1, 1)) != (1, 1):
        return None
    channels, num = weight.shape[:2]
    spread = torch.nn.functional.conv_transpose2d(
        impulse,
        torch.from_numpy(np.ascontiguousarray(weight)).double().flatten(0, 1)[None],
        stride=2,
        padding=pads[0][0],
    )
    each = torch.from_numpy(np.ascontiguousarray(blur)).double().repeat(channels, 1, 1, 1)
    seen = torch.nn.functional.conv2d(spread, each, padding=pads[1][0], groups=channels * num)[0]
    if seen.shape[1:] != (2 * side, 2 * side):
        return None
    window = seen[:, 2 * centre - 2 : 2 * centre + 4, 2 * centre - 2 : 2 * centre + 4]
    if window.count_nonzero() < seen.count_nonzero():
        return None
    # The pixel is seen from above, where it is two rows down, to below: the kernel is turned round.
    kernels = window.reshape(channels, num, KERNEL, 2, KERNEL, 2).flip(2, 4)
    return kernels.permute(3, 5, 1, 0, 2, 4).reshape(4, num, channels, KERNEL, KERNEL).numpy()
