"""StyleGAN2's synthesis as its programs run it where their CUDA operators are not: a style scales the weights.

Karras et al. (CVPR 2020), section 2.2, in the form that rosinality's, e4e's and pSp's modules have: scaled and
normalised weights for every image, a grouped convolution with an image a group, and the filters of upfirdn2d as
padding with zeros followed by a convolution of single planes. Numbers are those of `translation/stylegan/layers.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.translation.stylegan.layers import EPSILON, NUM_TAPS, Blur, ModulatedConv2d, Upsample


def scale_weights(module: nn.Module) -> None:
    """Replaces modulated convolutions and filters, in place, by the published ones."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ModulatedConv2d):
                setattr(parent, name, ScaledWeights(child))
            elif isinstance(child, Upsample):
                setattr(parent, name, PlaneFilter(child.kernel, up=2, pad=(2, 1)))


class ScaledWeights(nn.Module):
    """(N, in, H, W), (N, style) -> (N, out, H, W), or (N, out, 2H, 2W) where the convolution `upsample`s."""

    weight: Tensor

    def __init__(self, conv: ModulatedConv2d) -> None:
        super().__init__()
        self.modulation, self._scale = conv.modulation, conv.scale
        self._upsample, self._demodulate = conv.upsample, conv.demodulate
        settled = conv.settled.transpose(0, 1) if conv.upsample else conv.settled
        self.register_buffer("weight", settled[None].contiguous())
        self.blur = _plain_blur(conv.blur) if conv.upsample else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        num_images, in_channels, height, width = x.shape
        style = self.modulation(style)
        num_images = max(num_images, len(style))
        weight = self._scale * self.weight * style.view(num_images, 1, in_channels, 1, 1)
        if self._demodulate:
            length = torch.rsqrt(weight.square().sum([2, 3, 4]) + EPSILON)
            weight = weight * length[:, :, None, None, None]
        grouped = x.expand(num_images, -1, -1, -1).reshape(1, num_images * in_channels, height, width)
        if self.blur is None:
            padding = weight.shape[-1] // 2
            y = F.conv2d(grouped, weight.flatten(0, 1), padding=padding, groups=num_images)
            return y.view(num_images, -1, height, width)
        weight = weight.transpose(1, 2).reshape(-1, weight.shape[1], *weight.shape[3:])
        y = F.conv_transpose2d(grouped, weight, stride=2, groups=num_images)
        blurred: Tensor = self.blur(y.view(num_images, -1, *y.shape[2:]))
        return blurred


class PlaneFilter(nn.Module):
    """upfirdn2d by plain operators: (N, C, H, W) with zeros put between, padded, and filtered plane by plane."""

    kernel: Tensor

    def __init__(self, kernel: Tensor, *, up: int, pad: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel.flip(0, 1)[None, None].contiguous())
        self._up, self._pad = up, pad

    def forward(self, x: Tensor) -> Tensor:
        num_images, num_channels, height, width = x.shape
        before, after = self._pad
        y = x.reshape(-1, height, 1, width, 1)
        y = F.pad(y, [0, self._up - 1, 0, 0, 0, self._up - 1]).reshape(
            -1, 1, height * self._up, width * self._up
        )
        y = F.conv2d(F.pad(y, [before, after, before, after]), self.kernel)
        return y.view(num_images, num_channels, *y.shape[2:])


def _plain_blur(blur: Blur) -> PlaneFilter:
    pad = (NUM_TAPS - 1) // 2
    return PlaneFilter(blur.kernel, up=1, pad=(pad, pad))
