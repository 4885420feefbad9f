"""VSAIT's generator: Theiss et al., "Unpaired image translation via vector symbolic architectures", ECCV 2022.

CUT's residual network with reflected borders at every convolution and Gaussian filters. Names are those of the
published network: `encoder.net.N` and `decoder.net.N`, 52 tensors with 9 blocks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from d2r_fast.translation.gan.blocks import (
    InstanceNorm,
    build_quietly,
    count_blocks,
    load_generator,
    num_channels,
)
from d2r_fast.translation.gan.blur import GaussianDown, GaussianUp

FIRST = "encoder.net.0.conv.weight"


class ConvBlock(nn.Module):
    """Convolution with reflected borders, instance norm and activation, where there are these."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, last: nn.Module | None) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel)
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.conv(self.pad(x)))
        return y


class ResnetBlock(nn.Module):
    """Two convolutions and the block's input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            ConvBlock(channels, channels, last=_norm_relu()),
            ConvBlock(channels, channels, last=InstanceNorm()),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.net(x)
        return x + residual


class Half(nn.Module):
    """Encoder or decoder."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class VsaitGenerator(nn.Module):
    """Images (N, 3, H, W) float32 RGB in [-1, 1] -> images, the same shape and range; H and W multiples of 4.

    Args:
        channels: of the first convolution; four times as many in the residual blocks.
        num_blocks: residual blocks, the larger half of them in the encoder.
    """

    def __init__(self, channels: int = 64, num_blocks: int = 9) -> None:
        super().__init__()
        in_decoder = num_blocks // 2
        c = channels
        self.encoder = build_quietly(lambda: Half(
            ConvBlock(3, c, kernel=7, last=_norm_relu()),
            ConvBlock(c, 2 * c, last=_norm_relu()), GaussianDown(2 * c),
            ConvBlock(2 * c, 4 * c, last=_norm_relu()), GaussianDown(4 * c),
            *(ResnetBlock(4 * c) for _ in range(num_blocks - in_decoder)),
        ))  # fmt: skip
        self.decoder = build_quietly(lambda: Half(
            *(ResnetBlock(4 * c) for _ in range(in_decoder)),
            GaussianUp(4 * c), ConvBlock(4 * c, 2 * c, last=_norm_relu()),
            GaussianUp(2 * c), ConvBlock(2 * c, c, last=_norm_relu()),
            ConvBlock(c, 3, kernel=7, last=nn.Tanh()),
        ))  # fmt: skip

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], path: Path) -> Self:
        """The network of a checkpoint, in eval mode.

        Raises:
            UserError: tensors that are not exactly one's own; `path` is named.
        """
        channels = num_channels(tensors, FIRST, path)
        num_blocks = sum(
            count_blocks(tensors, rf"{half}\.net\.(\d+)\.net\.0\.") for half in ("encoder", "decoder")
        )
        return load_generator(lambda: cls(channels, num_blocks), tensors, path)

    def forward(self, images: Tensor) -> Tensor:
        translated: Tensor = self.decoder(self.encoder(images))
        return translated


def _norm_relu() -> nn.Module:
    return nn.Sequential(InstanceNorm(), nn.ReLU())
