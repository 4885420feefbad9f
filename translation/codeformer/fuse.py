"""How the input's own features reach the picture: CodeFormer's controllable feature transformation."""

import torch
from torch import Tensor, nn

from d2r_fast.translation.codeformer.blocks import ResBlock, conv3x3

SLOPE = 0.2


class FuseBlock(nn.Module):
    """The generator's features y, shifted and scaled by what the encoder saw: y + w (y scale + shift).

    Args:
        channels: of both, at this place.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * channels, channels)
        self.scale = _layers(channels)
        self.shift = _layers(channels)

    def forward(self, seen: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """
        Args:
            seen, y: (B, C, h, w) of encoder and generator.
            w: (B,), from 0 to 1.
        """
        both = self.encode_enc(torch.cat([seen, y], dim=1))
        residual: Tensor = y * self.scale(both) + self.shift(both)
        return y + w[:, None, None, None] * residual


def _layers(channels: int) -> nn.Sequential:
    return nn.Sequential(conv3x3(channels, channels), nn.LeakyReLU(SLOPE), conv3x3(channels, channels))
