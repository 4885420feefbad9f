"""The residual network of AdaFace's repository, which shares InsightFace's blocks and not its weights.

Same layers and key names as the `Backbone` of its ir_18, ir_34, ir_50 and ir_101, so that its checkpoints load
with `load_state_dict` (strict) and ours load there. It differs from InsightFace's IResNet in three places: a
shortcut projects only where the number of channels changes, and otherwise takes every second pixel; the last batch
norm has neither scale nor shift; and its images are BGR. AdaFace: Kim et al., CVPR 2022.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from d2r_fast.recognition.iresnet import DEPTHS, IMAGE_SIZE, WIDTHS, batch_norm, check_stages, conv3x3


class AdaFaceBlock(nn.Module):
    """BN, conv, BN, PReLU, conv (strided), BN, plus the shortcut; no activation after the sum."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.shortcut_layer = _shortcut(in_channels, channels, stride=stride)
        self.res_layer = nn.Sequential(
            batch_norm(in_channels), conv3x3(in_channels, channels), batch_norm(channels),
            nn.PReLU(channels), conv3x3(channels, channels, stride=stride), batch_norm(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut_layer(x)
        residual: Tensor = self.res_layer(x)
        return residual + shortcut


def _shortcut(in_channels: int, channels: int, *, stride: int) -> nn.Module:
    if in_channels != channels:
        projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        return nn.Sequential(projection, batch_norm(channels))
    return nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()


class AdaFaceResNet(nn.Module):
    """Aligned face crops (N, 3, 112, 112) BGR float in [-1, 1] -> raw embeddings (N, embedding_dim) float32.

    The embedding is not normalised, where the repository's network returns direction and norm apart. Under autocast
    the last linear layer and its batch norm stay in float32.

    `num_blocks` and `widths` are per stage (four of each); `seed` alone decides the initial weights, and the global
    random state is left as it was.
    """

    def __init__(
        self,
        num_blocks: Sequence[int] = DEPTHS[50],
        *,
        widths: Sequence[int] = WIDTHS,
        embedding_dim: int = 512,
        dropout: float = 0.4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_stages(num_blocks, widths)
        with torch.random.fork_rng(devices=()):
            self.input_layer = nn.Sequential(
                conv3x3(3, widths[0]), batch_norm(widths[0]), nn.PReLU(widths[0])
            )
            self.output_layer = nn.Sequential(
                batch_norm(widths[3]), nn.Dropout(dropout), nn.Flatten(),
                nn.Linear(widths[3] * (IMAGE_SIZE // 16) ** 2, embedding_dim),
                nn.BatchNorm1d(embedding_dim, affine=False),
            )  # fmt: skip
            self.body = nn.Sequential(*_blocks(num_blocks, widths))
        if self._linear.weight.device.type != "meta":
            self.reset_parameters(torch.Generator().manual_seed(seed))

    @property
    def embedding_dim(self) -> int:
        return self._linear.out_features

    @property
    def _linear(self) -> nn.Linear:
        layer = self.output_layer[3]
        assert isinstance(layer, nn.Linear)
        return layer

    def reset_parameters(self, generator: torch.Generator) -> None:
        """AdaFace's initial weights: He et al.'s normal by fan-out, the linear layer's bias 0, norms 1 and 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
        nn.init.zeros_(self._linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        norm, dropout, flatten, linear, last_norm = self.output_layer
        x = flatten(dropout(norm(self.body(self.input_layer(x)))))
        with torch.autocast(x.device.type, enabled=False):
            embedding: Tensor = last_norm(linear(x.to(self._linear.weight.dtype)))
        return embedding


def _blocks(num_blocks: Sequence[int], widths: Sequence[int]) -> list[AdaFaceBlock]:
    """All stages' blocks in a row, as they are numbered in the keys."""
    stages = zip(num_blocks, pairwise((widths[0], *widths)), strict=True)
    return [
        AdaFaceBlock(channels if block else in_channels, channels, stride=1 if block else 2)
        for count, (in_channels, channels) in stages
        for block in range(count)
    ]
