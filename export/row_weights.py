"""What a graph in rows holds beyond the weights of the module that it comes from."""

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from d2r_fast.export import places
from d2r_fast.export.winograd import KERNEL, window_of

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
                size = tuple((given if transposed else result).shape[2:])
                self._count(size, weight, stride=set(stride), transposed=transposed)
        return result

    def _count(
        self, size: tuple[int, ...], weight: torch.Tensor, *, stride: set[int], transposed: bool
    ) -> None:
        """A 3x3 convolution that gives, or a transposed one that takes, a map of this size."""
        tile, num_channels = places.tile_of(size), min(weight.shape[:2])
        if transposed:
            tile = tile or places.TILES[-1]
            num_kernels = PHASES if stride == {2} and num_channels >= places.LEAST_CHANNELS // 2 else 0
        else:
            num_kernels = int(stride == {1} and num_channels >= places.LEAST_CHANNELS)
        if tile is None or num_kernels == 0:
            return
        num_products = window_of(tile) ** 2
        self.num_weights += (num_kernels * num_products - KERNEL**2) * math.prod(weight.shape[:2])
        self.num_places += places.num_tiles(size, tile) * num_products
