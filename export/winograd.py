"""3x3 convolutions in a quarter of the multiplications: the maps of Winograd's F(4x4, 3x3), and of F(2x2, 3x3), which
takes 4/9 of them from less than half the weights (export/rows.py).

A tile of 4x4 outputs is a fixed linear map (`outputs`) of 36 products of fixed linear maps of its 6x6 inputs
(`inputs`) and of the kernel (Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016). Over all
tiles and channels each step is one matrix product, which CPU runtimes do at the rate of their convolutions; the border
is where the gather looks. Up to rounding the result is the convolution's. The points 0, +-5/8, +-11/8 lose least of
those tried: 6 such convolutions with norms are 6e-6 from float64 (relative L2), with the usual 0, +-1, +-2 1.3e-5,
directly 1e-6. For float32 on a CPU alone: cards have units for convolutions, and float16 has no room for this.
"""

from functools import cache

import torch
from torch import Tensor

POINTS = {4: (0.0, 5 / 8, -5 / 8, 11 / 8, -11 / 8), 2: (0.0, 1.0, -1.0)}
"""Of a tile of so many outputs a side, where the polynomials are evaluated; one more point is infinity."""
KERNEL = 3


def window_of(tile: int) -> int:
    """Inputs that a tile sees a side."""
    return tile + KERNEL - 1


@cache
def transforms(tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of a window's inputs, of a kernel's 9 weights, and to a tile's outputs; float64, on the CPU.

    (36, 36), (36, 9) and (16, 36) of a tile of 4; (16, 16), (16, 9) and (4, 16) of one of 2. Inputs' rows are scaled by
    powers of two to about 1, kernels' the other way.
    """
    window = window_of(tile)
    powers = torch.tensor(
        [[point**k for k in range(window)] for point in POINTS[tile]], dtype=torch.float64, device="cpu"
    )
    infinity = torch.zeros(1, window, dtype=torch.float64, device="cpu")
    infinity[0, -1] = 1
    inputs = torch.linalg.inv(torch.cat([powers, infinity])).T
    kernel = torch.cat([powers[:, :KERNEL], infinity[:, -KERNEL:]])
    outputs = torch.cat([powers[:, :tile], infinity[:, -tile:]]).T
    scale = inputs.abs().sum(1, keepdim=True).log2().round().exp2()
    inputs, kernel = inputs / scale, kernel * scale
    return tuple(torch.kron(each, each) for each in (inputs, kernel, outputs))  # type: ignore[return-value]
