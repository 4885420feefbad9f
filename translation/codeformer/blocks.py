"""The blocks that CodeFormer's encoder and generator are rows of (VQGAN's: Esser et al., CVPR 2021).

Names of parameters are CodeFormer's, so that a block can be told, and built, from the names and shapes of its tensors.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

NUM_GROUPS = 32
"""Of every group norm."""
NORM_EPSILON = 1e-6
Shapes = Mapping[str, tuple[int, ...]]
"""Names of tensors -> their shapes."""


class ResBlock(nn.Module):
    """Norm, swish, 3x3 convolution, twice, plus the input, which a 1x1 convolution widens where it has to."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = conv3x3(in_channels, channels)
        self.norm2 = group_norm(channels)
        self.conv2 = conv3x3(channels, channels)
        self.conv_out = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.conv_out is None else self.conv_out(x))


class AttentionBlock(nn.Module):
    """Attention of one head between all places of a map (B, C, h, w), plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (_places(layer(normed)) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(query, key, value)
        seen: Tensor = self.proj_out(attended[:, 0].transpose(1, 2).reshape(x.shape))
        return x + seen


def _places(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 1, h w, C): one head."""
    return x.flatten(2).transpose(1, 2)[:, None]


class Downsample(nn.Module):
    """Halves a map by a strided 3x3 convolution; zeros go to the right and to the bottom alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Doubles a map by repeating its values, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


def make_block(shapes: Shapes, *, name: str, resample: type[Downsample | Upsample]) -> nn.Module:
    """The block whose tensors have these names and shapes.

    Args:
        shapes: names within the block.
        name: of the block, for errors.
        resample: what a block of one convolution called `conv` is.

    Raises:
        KeyError: a tensor that decides the size is missing.
        ValueError: sizes that cannot be.
    """
    for decides, make in (
        ("conv1.weight", lambda shape: ResBlock(shape[1], shape[0])),
        ("q.weight", lambda shape: AttentionBlock(shape[0])),
        ("conv.weight", lambda shape: resample(shape[0])),
        ("weight", lambda shape: group_norm(shape[0]) if len(shape) == 1 else conv3x3(shape[1], shape[0])),
    ):
        if decides in shapes:
            return make(shapes[decides])
    raise KeyError(f"{name}.weight")


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NUM_GROUPS, channels, eps=NORM_EPSILON)


def conv3x3(in_channels: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, padding=1)
