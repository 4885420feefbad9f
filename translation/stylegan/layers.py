"""StyleGAN2's layers by plain operators, under the names and with the numbers of rosinality's implementation.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020). There a style scales the weights of
a convolution, so that every image has weights of its own. Here it scales what goes in, the weights are constant, and
what comes out is divided by the length that the scaled weights would have had: the same numbers up to rounding, and a
convolution that any runtime has. Custom operators are taken apart: upfirdn2d into padding and a fixed depthwise
convolution, fused_leaky_relu into an addition, a leaky ReLU and a factor.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL_SIZE = 3
NUM_TAPS = 4
"""Of the filter, [1, 3, 3, 1] in each direction; its values stand in checkpoints."""
NEGATIVE_SLOPE, GAIN = 0.2, math.sqrt(2)
EPSILON = 1e-8
SMALLEST_PEAK = 1e-2
"""A style whose numbers are all smaller is not scaled up further, so that squares stay in float16's range."""


class EqualLinear(nn.Module):
    """(N, in) -> (N, out): weights are kept at a variance of one and scaled when used.

    Args:
        learning_rate: what weights and bias are multiplied with beside it; 0.01 in the mapping network.
        activate: whether a scaled leaky ReLU follows.
    """

    def __init__(
        self, num_inputs: int, num_outputs: int, *, learning_rate: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_outputs, num_inputs))
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        self._scale, self._learning_rate, self._activate = (
            learning_rate / math.sqrt(num_inputs),
            learning_rate,
            activate,
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x * self._scale, self.weight) + self.bias * self._learning_rate
        return scaled_leaky_relu(y) if self._activate else y


class PixelNorm(nn.Module):
    """(N, C) -> (N, C) with a mean square of one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + EPSILON)


class Filter(nn.Module):
    """The fixed filter of a layer, as it stands in checkpoints: `kernel`, (taps, taps)."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.zeros(NUM_TAPS, NUM_TAPS))

    def each(self, num_channels: int) -> Tensor:
        """(C, 1, taps, taps): the weights of a depthwise convolution."""
        return self.kernel.expand(num_channels, 1, NUM_TAPS, NUM_TAPS)


class Blur(Filter):
    """(N, C, 2H + 1, 2W + 1), from a strided transposed convolution, -> (N, C, 2H, 2W)."""

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.each(channels).flip(2, 3), padding=1, groups=channels)


class Upsample(Filter):
    """(N, C, H, W) -> (N, C, 2H, 2W)."""

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv_transpose2d(x, self.each(channels), stride=2, padding=1, groups=channels)


class ModulatedConv2d(nn.Module):
    """(N or 1, in, H, W), (N, style) -> (N, out, H, W), or (N, out, 2H, 2W) where it `upsample`s.

    The style is divided by its largest number first, which the division by the weights' length takes out again
    exactly: however large a style, what goes into the convolution is not larger than the activation was. This is what
    keeps float16 from overflowing there (NVIDIA's networks of 2020 do the same).
    """

    settled: Tensor
    energy: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style_dim: int,
        *,
        kernel_size: int = KERNEL_SIZE,
        upsample: bool = False,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, out_channels, in_channels, kernel_size, kernel_size))
        self.modulation = EqualLinear(style_dim, in_channels)
        if upsample:
            self.blur = Blur()
        self.upsample, self.demodulate = upsample, demodulate
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.settle()

    def settle(self) -> None:
        """Computes what depends on the weights alone; to be called after they are loaded.

        Weights come as the operator takes them: a runtime then finds a constant there, and not a computed one.
        """
        weight = self.weight.detach()[0]
        settled = weight.transpose(0, 1).contiguous() if self.upsample else weight
        self.register_buffer("settled", settled, persistent=False)
        if self.demodulate:
            energy = (weight * self.scale).square().sum((2, 3))
            self.register_buffer("energy", energy, persistent=False)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        style = self.modulation(style)
        peak = style.abs().amax(1, keepdim=True).clamp(min=SMALLEST_PEAK)
        style = style / peak
        y = self._convolve(x * (style * self.scale)[:, :, None, None])
        if not self.demodulate:
            return y * peak[:, :, None, None]
        length = F.linear(style.square(), self.energy) + (EPSILON**0.5 / peak).square()
        return y * torch.rsqrt(length)[:, :, None, None]

    def _convolve(self, x: Tensor) -> Tensor:
        if not self.upsample:
            return F.conv2d(x, self.settled, padding=self.settled.shape[-1] // 2)
        y: Tensor = self.blur(F.conv_transpose2d(x, self.settled, stride=2))
        return y


class Noise(nn.Module):
    """A fixed picture of noise (1 or N, 1, H, W), added to all channels by one learned weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight * noise


class BiasedLeakyReLU(nn.Module):
    """leaky_relu(x + bias, 0.2) * sqrt(2), a bias for each channel."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        return scaled_leaky_relu(x + self.bias[:, None, None])


class StyledConv(nn.Module):
    """A modulated convolution, noise and the activation."""

    def __init__(
        self, in_channels: int, out_channels: int, style_dim: int, *, upsample: bool = False
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, style_dim, upsample=upsample)
        self.noise = Noise()
        self.activate = BiasedLeakyReLU(out_channels)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        y: Tensor = self.activate(self.noise(self.conv(x, style), noise))
        return y


class ToRGB(nn.Module):
    """Activations as colours, added to the colours of half the size where there are any."""

    def __init__(self, in_channels: int, style_dim: int, *, upsample: bool = True) -> None:
        super().__init__()
        if upsample:
            self.upsample = Upsample()
        self.conv = ModulatedConv2d(in_channels, 3, style_dim, kernel_size=1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor, before: Tensor | None = None) -> Tensor:
        colours: Tensor = self.conv(x, style) + self.bias
        return colours if before is None else colours + self.upsample(before)


def scaled_leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, NEGATIVE_SLOPE) * GAIN
