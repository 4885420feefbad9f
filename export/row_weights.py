"""What a graph in rows holds beyond the weights of the module that it comes from."""

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from d2r_fast.export import places
from d2r_fast.export.winograd import KERNEL, TILE, WINDOW

PHASES = 4
"""Kernels that a transposed convolution and its blur become."""
PLACE_BYTES, WEIGHT_BYTES = 8, 4


class RowWeights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while a module runs, on the meta device too, by the rules that export/row_layers.py goes by.

    Of CodeFormer and VSAIT at full size what is foreseen is 3 % less than the file, at most.

    Attributes:
        num_weights: float32 numbers of transformed kernels, less those of the kernels that they stand for.
        num_places: that convolutions gather from.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_weights = self.num_places = 0

    @property
    def num_bytes(self) -> int:
        return WEIGHT_BYTES * self.num_weights + PLACE_BYTES * self.num_places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            given, weight, _, stride, _, dilation, transposed, _, groups = args
            if tuple(weight.shape[2:]) == (KERNEL, KERNEL) and {*dilation, groups} == {1}:
                num_tiles = _num_tiles(given if transposed else result)
                num_kernels = _num_kernels(weight, num_tiles, stride=set(stride), transposed=transposed)
                if num_kernels:
                    num_numbers = num_kernels * WINDOW**2 - KERNEL**2
                    self.num_weights += num_numbers * math.prod(weight.shape[:2])
                    self.num_places += num_tiles * WINDOW**2
        return result


def _num_tiles(x: torch.Tensor) -> int:
    return math.prod(-(-side // TILE) for side in x.shape[2:])


def _num_kernels(weight: torch.Tensor, num_tiles: int, *, stride: set[int], transposed: bool) -> int:
    """Winograd's kernels that a 3x3 convolution becomes; 0 where it stays direct."""
    num_channels = min(weight.shape[:2])
    if transposed:
        return PHASES if stride == {2} and num_channels >= places.LEAST_CHANNELS // 2 else 0
    wide = num_channels >= places.LEAST_CHANNELS and num_tiles >= places.LEAST_TILES
    return int(stride == {1} and wide)
