"""DECENT's generator: Xie et al., "Unsupervised image-to-image translation with density changing regularization",
NeurIPS 2022. It is CUT's.

Names are those of the published network: `model.N`, 52 tensors with 9 blocks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from d2r_fast.translation.gan.blocks import (
    InstanceNorm,
    ResnetBlock,
    build_quietly,
    count_blocks,
    load_generator,
    num_channels,
    run_layers,
)
from d2r_fast.translation.gan.blur import BinomialDown, BinomialUp

FIRST = "model.1.weight"


def head(channels: int) -> list[nn.Module]:
    """CUT's first 12 layers: (N, 3, H, W) -> (N, 4 channels, H / 4, W / 4)."""
    return [
        nn.ReflectionPad2d(3), nn.Conv2d(3, channels, 7), InstanceNorm(), nn.ReLU(),
        *_halved(channels), *_halved(2 * channels),
    ]  # fmt: skip


def tail(channels: int) -> list[nn.Module]:
    """CUT's last 11 layers: (N, 4 channels, h, w) -> (N, 3, 4 h, 4 w)."""
    return [
        *_doubled(4 * channels), *_doubled(2 * channels),
        nn.ReflectionPad2d(3), nn.Conv2d(channels, 3, 7), nn.Tanh(),
    ]  # fmt: skip


def _halved(channels: int) -> list[nn.Module]:
    """Zeros beyond the border, unlike VSAIT."""
    doubled = 2 * channels
    return [nn.Conv2d(channels, doubled, 3, padding=1), InstanceNorm(), nn.ReLU(), BinomialDown(doubled)]


def _doubled(channels: int) -> list[nn.Module]:
    return [BinomialUp(channels), nn.Conv2d(channels, channels // 2, 3, padding=1), InstanceNorm(), nn.ReLU()]


class DecentGenerator(nn.Module):
    """Images (N, 3, H, W) float32 RGB in [-1, 1] -> images, the same shape and range; H and W multiples of 4.

    Args:
        channels: of the first convolution; four times as many in the residual blocks.
        num_blocks: residual blocks.
    """

    def __init__(self, channels: int = 64, num_blocks: int = 9) -> None:
        super().__init__()
        self.model = build_quietly(
            lambda: nn.Sequential(
                *head(channels), *(ResnetBlock(4 * channels) for _ in range(num_blocks)), *tail(channels)
            )
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], path: Path) -> Self:
        """The network of a checkpoint, in eval mode.

        Raises:
            UserError: tensors that are not exactly one's own; `path` is named.
        """
        channels = num_channels(tensors, FIRST, path)
        num_blocks = count_blocks(tensors, r"model\.(\d+)\.conv_block\.")
        return load_generator(lambda: cls(channels, num_blocks), tensors, path)

    def forward(self, images: Tensor) -> Tensor:
        translated: Tensor = self.model(images)
        return translated

    def features(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """What stands after these layers of `model`, counted from 0, in their order; nothing beyond the last is run.

        CUT and DECENT look at 0, 4, 8, 12 and 16: the padded image, the two halvings' convolutions, and the first
        and fifth block.
        """
        assert max(layers) < len(self.model), f"there are {len(self.model)} layers"
        return run_layers(list(self.model)[: max(layers) + 1], images, layers)[1]
