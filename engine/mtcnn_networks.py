"""MTCNN's P-, R- and O-Net in torch, with the weights that the `mtcnn` package carries.

Only the package's weight files are read: importing it would need TensorFlow.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from d2r_fast.engine.errors import UserError

Array = NDArray[np.float32]


VECTOR = 16
"""Channels that a processor takes at once: PyTorch is fast where they are a multiple of it."""


@dataclass(frozen=True)
class Layout:
    """What a network consists of: unpadded convolutions, each with a PReLU, the first ones with a pool."""

    name: str
    kernels: tuple[int, ...]
    channels: tuple[int, ...]
    pools: tuple[tuple[int, int], ...]
    """(side, stride), with partial windows at the edges."""
    heads: tuple[int, ...]
    """Outputs: box, landmarks (O-Net only), no face and face."""


# The last kernel of R- and O-Net is a fully connected layer over the 3x3 that is left.
PNET = Layout("pnet", (3, 3, 3), (10, 16, 32), ((2, 2),), (4, 2))
RNET = Layout("rnet", (3, 3, 2, 3), (28, 48, 64, 128), ((3, 2), (3, 2)), (4, 2))
ONET = Layout("onet", (3, 3, 3, 2, 3), (32, 64, 64, 128, 256), ((3, 2), (3, 2), (2, 2)), (4, 10, 2))


def load_networks() -> tuple[nn.Module, nn.Module, nn.Module]:
    """P-, R- and O-Net on the CPU: (N, 3, h, w) in about [-1, 1] to (N, 6 or 16, h', w').

    The outputs are four box offsets, O-Net's ten landmarks (five x, then five y), and two logits, no face and
    face. Weights are channels last, which is two to three times as fast on a CPU.

    Raises:
        UserError: the package is missing or holds other networks.
    """
    spec = find_spec("mtcnn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the package mtcnn, which carries MTCNN's weights, is missing: pip install 'mtcnn>=1.0,<2'"
        )
    folder = Path(spec.submodule_search_locations[0]) / "assets" / "weights"
    pnet, rnet, onet = (build(layout, _read(folder / f"{layout.name}.lz4")) for layout in (PNET, RNET, ONET))
    return pnet, rnet, onet


def _read(path: Path) -> list[Array]:
    if not path.is_file():
        raise UserError(
            f"{path} is missing: reinstall the package that carries it, pip install 'mtcnn>=1.0,<2'"
        )
    arrays: list[Array] = joblib.load(path)
    return arrays


def build(layout: Layout, arrays: list[Array]) -> nn.Module:
    """A network from Keras arrays: kernel, bias and slopes of each layer, then kernel and bias of each head.

    Raises:
        UserError: the arrays are those of another network.
    """
    _check(layout, arrays)
    layers: list[nn.Module] = []
    for depth, side in enumerate(layout.kernels):
        kernel, bias, slopes = arrays[3 * depth : 3 * depth + 3]
        layers += [_convolution(_kernel(kernel, side), torch.from_numpy(bias)), _prelu(slopes)]
        if depth < len(layout.pools):
            layers.append(nn.MaxPool2d(*layout.pools[depth], ceil_mode=True))
    heads = arrays[3 * len(layout.kernels) :]
    kernels = [_kernel(kernel, 1) for kernel in heads[0::2]]
    layers.append(_convolution(torch.cat(kernels), torch.from_numpy(np.concatenate(heads[1::2]))))
    return nn.Sequential(*layers).requires_grad_(False).eval()


def take_pixels(network: nn.Module) -> nn.Module:
    """The network on pixels in [0, 255], with their normalisation, (x - 127.5) / 128, in its first layer."""
    first = next(network.children())
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    first.bias -= first.weight.sum((1, 2, 3)) * (127.5 / 128)
    first.weight /= 128
    return network


class ByRows(nn.Module):
    """A network on the CPU with channels last in memory, its activations and pools by rows of the image.

    The same numbers: PyTorch's own PReLU and pooling walk such tensors in runs as short as the channels are
    few, 10 in P-Net's widest layer, and take longer than the convolutions. A row is a run of hundreds.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(by_rows(layer) for layer in network.children())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, h, w) channels last to the network's output."""
        for layer in self.layers:
            x = layer(x)
        return x


def by_rows(layer: nn.Module) -> nn.Module:
    """The layer that works by rows where that is faster, and else the layer itself."""
    if isinstance(layer, nn.PReLU) and len(layer.weight) % VECTOR:
        return RowPReLU(layer.weight)
    if isinstance(layer, nn.MaxPool2d):
        assert isinstance(layer.kernel_size, int)
        return RowPool(layer.kernel_size)
    return layer


class RowPReLU(nn.Module):
    """PReLU of (N, c, h, w) channels last by slopes (c,)."""

    def __init__(self, slopes: nn.Parameter) -> None:
        super().__init__()
        self.slopes = slopes
        self._along = lru_cache(maxsize=64)(self.slopes.repeat)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        num, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(num * height, width * channels)
        return F.prelu(rows, self._along(width)).view(num, height, width, channels).permute(0, 3, 1, 2)


class RowPool(nn.Module):
    """Largest value of windows of `side` x `side` in steps of 2, partial ones at the edges included."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        return _pool_steps(_pool_steps(x, 1, self.side), 2, self.side).permute(0, 3, 1, 2)


def _pool_steps(x: torch.Tensor, dim: int, side: int) -> torch.Tensor:
    """Largest of every `side` values along a dimension in steps of 2, partial windows at the end included."""
    size = list(x.shape)
    size[dim] = -(-(x.shape[dim] - side) // 2) + 1
    first, *others = (x[(slice(None),) * dim + (slice(tap, None, 2),)] for tap in range(side))
    out = x.new_empty(size)
    best = first.narrow(dim, 0, size[dim])
    for other in others:
        whole = min(other.shape[dim], size[dim])
        torch.maximum(best.narrow(dim, 0, whole), other.narrow(dim, 0, whole), out=out.narrow(dim, 0, whole))
        out.narrow(dim, whole, size[dim] - whole).copy_(best.narrow(dim, whole, size[dim] - whole))
        best = out
    return out


def _check(layout: Layout, arrays: list[Array]) -> None:
    """The arrays have the sizes of the layout; a fully connected layer may be flat."""
    wanted: list[int] = []
    num_in = 3
    for side, num_out in zip(layout.kernels, layout.channels, strict=True):
        wanted += [side * side * num_in * num_out, num_out, num_out]
        num_in = num_out
    for num_out in layout.heads:
        wanted += [num_in * num_out, num_out]
    given = [array.size for array in arrays]
    if given != wanted:
        raise UserError(
            f"{layout.name}.lz4 of the package mtcnn holds arrays of {given} numbers, not {wanted}: "
            "reinstall it, pip install 'mtcnn>=1.0,<2'"
        )


def _kernel(kernel: Array, side: int) -> torch.Tensor:
    """A torch kernel (out, in, height, width) from Keras's (height, width, in, out).

    A fully connected layer comes as (width * height * in, out): its input was flattened column by column, as
    in the MATLAB original.
    """
    if kernel.ndim == 4:
        return torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    num_out = kernel.shape[1]
    return torch.from_numpy(kernel.reshape(side, side, -1, num_out).transpose(3, 2, 1, 0).copy())


def _convolution(kernel: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    num_out, num_in, height, width = kernel.shape
    layer = nn.Conv2d(num_in, num_out, (height, width))
    layer.weight = nn.Parameter(kernel.contiguous(memory_format=torch.channels_last))
    layer.bias = nn.Parameter(bias)
    return layer


def _prelu(slopes: Array) -> nn.PReLU:
    layer = nn.PReLU(slopes.size)
    layer.weight = nn.Parameter(torch.from_numpy(slopes.reshape(-1).copy()))
    return layer
