"""3x3 convolutions in a quarter of the multiplications: Winograd's F(4x4, 3x3), as gathers and matrix products.

A tile of 4x4 outputs is a fixed linear map (`outputs`) of 36 products of fixed linear maps of its 6x6 inputs
(`inputs`) and of the kernel (Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016). Over all
tiles and channels each step is one matrix product, which CPU runtimes do at the rate of their convolutions; the border
is where the gather looks. Up to rounding the result is the convolution's. The points 0, +-5/8, +-11/8 lose least of
those tried: 6 such convolutions with norms are 6e-6 from float64 (relative L2), with the usual 0, +-1, +-2 1.3e-5,
directly 1e-6. For float32 on a CPU alone: cards have units for convolutions, and float16 has no room for this.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache, partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINTS = (0.0, 5 / 8, -5 / 8, 11 / 8, -11 / 8)
"""Where the polynomials are evaluated; the sixth point is infinity."""
TILE, KERNEL = 4, 3
WINDOW = TILE + KERNEL - 1
LEAST_CHANNELS = 128
"""From which on the products outweigh the gathers."""


@cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Maps of a window's 36 inputs, of a kernel's 9 weights, and to a tile's 16 outputs; float64, on the CPU.

    (36, 36), (36, 9) and (16, 36). Inputs' rows are scaled by powers of two to about 1, kernels' the other way.
    """
    powers = torch.tensor(
        [[point**k for k in range(WINDOW)] for point in POINTS], dtype=torch.float64, device="cpu"
    )
    infinity = torch.zeros(1, WINDOW, dtype=torch.float64, device="cpu")
    infinity[0, -1] = 1
    inputs = torch.linalg.inv(torch.cat([powers, infinity])).T
    kernel = torch.cat([powers[:, :KERNEL], infinity[:, -KERNEL:]])
    outputs = torch.cat([powers[:, :TILE], infinity[:, -TILE:]]).T
    scale = inputs.abs().sum(1, keepdim=True).log2().round().exp2()
    inputs, kernel = inputs / scale, kernel * scale
    return tuple(torch.kron(each, each) for each in (inputs, kernel, outputs))  # type: ignore[return-value]


class WinogradConv(nn.Module):
    """A 3x3 convolution of maps of one size: (N, C, H, W) -> (N, D, H, W) float32.

    Args:
        convolution: 3x3, stride 1; its weights are copied.
        size: height and width of the maps, 2 or more each.
        reflected: whether the border is reflected; zeros otherwise.
    """

    def __init__(self, convolution: nn.Conv2d, size: tuple[int, int], *, reflected: bool) -> None:
        super().__init__()
        inputs, kernel, outputs = transforms()
        weight = convolution.weight.detach()
        products = kernel @ weight.double().flatten(2).flatten(0, 1).T
        assert convolution.bias is not None
        self.size, self.reflected = size, reflected
        self.num_tiles = _tiles(size[0]) * _tiles(size[1])
        self.inputs: Tensor
        self.outputs: Tensor
        self.kernel: Tensor
        self.bias: Tensor
        self.windows: Tensor
        self.register_buffer("inputs", inputs.float())
        self.register_buffer("outputs", outputs.float())
        self.register_buffer("kernel", products.view(-1, *weight.shape[:2]).mT.float().contiguous())
        self.register_buffer("bias", convolution.bias.detach().clone())
        self.register_buffer("windows", _windows(size, reflected=reflected))

    def forward(self, x: Tensor) -> Tensor:
        num = x.shape[0]  # len(x) would fix it where the network is exported
        rows = x.flatten(2).mT
        rows = rows if self.reflected else F.pad(rows, (0, 0, 0, 1))
        seen = self.inputs @ rows[:, self.windows].view(num, WINDOW**2, -1)
        products = seen.view(num, WINDOW**2, self.num_tiles, -1) @ self.kernel
        tiles = self.outputs @ products.flatten(2)
        rows_of_tiles, tiles_of_row = map(_tiles, self.size)
        y = tiles.view(num, TILE, TILE, rows_of_tiles, tiles_of_row, -1).permute(0, 5, 3, 1, 4, 2)
        y = y.reshape(num, -1, TILE * rows_of_tiles, TILE * tiles_of_row)
        return y[:, :, : self.size[0], : self.size[1]] + self.bias[:, None, None]


def _tiles(side: int) -> int:
    return -(-side // TILE)


def _windows(size: tuple[int, int], *, reflected: bool) -> Tensor:
    """Which pixel stands at each of 36 places of each tile's window, by place and then by tile.

    Beyond a border of zeros it is the pixel after the last. What no output within the map sees may be any.
    """
    lines = [torch.arange(WINDOW)[:, None] + TILE * torch.arange(_tiles(side)) - 1 for side in size]
    if reflected:
        lines = [
            torch.where(n < side, n.abs(), 2 * (side - 1) - n).clamp(min=0)
            for n, side in zip(lines, size, strict=True)
        ]
    y, x = lines[0][:, None, :, None], lines[1][None, :, None, :]
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return torch.where(inside, y * size[1] + x, size[0] * size[1]).flatten()


def use_winograd(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Replaces, in place, the wide 3x3 convolutions that are run, each for maps of the size that it sees.

    Args:
        network: on the CPU.
        inputs: one row of each of its arguments, which decides the sizes; values do not count.

    Returns:
        How many were replaced.
    """
    sizes = _sizes(network, inputs)
    found = [place for place in _wide(network) if place[-1] in sizes]
    for parent, pad, name, path in found:
        height, width = sizes[path]
        if pad is not None:
            height, width = height - 2, width - 2
            setattr(parent, pad, nn.Identity())
        convolution = WinogradConv(getattr(parent, name), (height, width), reflected=pad is not None)
        setattr(parent, name, convolution)
    return len(found)


def _wide(network: nn.Module) -> Iterator[tuple[nn.Module, str | None, str, str]]:
    """Parent of a convolution, name of the reflected border before it or None, its own name, its path."""
    for path, parent in network.named_modules():
        for (pad, before), (name, module) in pairwise([("", nn.Identity()), *parent.named_children()]):
            if _is_wide(module):
                reflects = isinstance(before, nn.ReflectionPad2d)
                yield parent, pad if reflects else None, name, f"{path}.{name}" if path else name


def _is_wide(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (KERNEL, KERNEL)
        and min(module.in_channels, module.out_channels) >= LEAST_CHANNELS
    )


@torch.inference_mode()
def _sizes(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, tuple[int, int]]:
    """Height and width of what each convolution is given, by its path; found without computing anything."""
    shadow, found = deepcopy(network).to("meta"), dict[str, tuple[int, int]]()

    def note(path: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[path] = (given[0].shape[2], given[0].shape[3])

    for path, module in shadow.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(partial(note, path))
    shadow(*(value.to("meta") for value in inputs))
    return found
