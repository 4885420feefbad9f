"""InsightFace's improved residual network (IResNet), the recogniser of ArcFace and of Arc2Face.

Same layers and key names as insightface's arcface_torch backbones, so that its checkpoints load with
`load_state_dict` (strict) and ours load there. Architecture: Deng et al., "ArcFace" (CVPR 2019) on the
full pre-activation blocks of Han et al. (CVPR 2017); see also Duta et al., "Improved Residual Networks"
(ICPR 2020). The network is written for training: keep it in `train()` for dropout and batch statistics.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
}
"""Depth in the paper's counting -> residual blocks per stage."""
WIDTHS = (64, 128, 256, 512)
IMAGE_SIZE = 112
BATCH_NORM_EPS = 1e-5
CONV_STD = 0.1  # insightface draws every convolution from N(0, 0.1), whatever its fan-in


def conv3x3(in_channels: int, channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)


class Block(nn.Module):
    """BN, conv, BN, PReLU, conv (strided), BN, plus the shortcut; no activation after the sum."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = batch_norm(in_channels)
        self.conv1 = conv3x3(in_channels, channels)
        self.bn2 = batch_norm(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = conv3x3(channels, channels, stride=stride)
        self.bn3 = batch_norm(channels)
        # The first block of every stage projects, the first stage's 64 -> 64 included (AdaFace's does not).
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), batch_norm(channels))
            if stride > 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        x = self.conv1(self.bn1(x))
        x = self.bn3(self.conv2(self.prelu(self.bn2(x))))
        return shortcut + x


class IResNet(nn.Module):
    """Aligned face crops (N, 3, 112, 112) RGB float in [-1, 1] -> raw embeddings (N, embedding_dim) float32.

    The embedding is not normalised. Under autocast the convolutions run in the lower precision and the
    last linear layer and its batch norm in float32, as insightface trains.

    `num_blocks` and `widths` are per stage (four of each); `seed` alone decides the initial weights, and
    the global random state is left as it was.
    """

    def __init__(
        self,
        num_blocks: Sequence[int] = DEPTHS[50],
        *,
        widths: Sequence[int] = WIDTHS,
        embedding_dim: int = 512,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_stages(num_blocks, widths)
        with torch.random.fork_rng(devices=()):
            self.conv1 = conv3x3(3, widths[0])
            self.bn1 = batch_norm(widths[0])
            self.prelu = nn.PReLU(widths[0])
            inputs = (widths[0], *widths)
            self.layer1, self.layer2, self.layer3, self.layer4 = (
                stage(inputs[i], widths[i], num_blocks=num_blocks[i]) for i in range(4)
            )
            self.bn2 = batch_norm(widths[3])
            self.dropout = nn.Dropout(dropout)
            self.fc = nn.Linear(widths[3] * (IMAGE_SIZE // 16) ** 2, embedding_dim)
            self.features = nn.BatchNorm1d(embedding_dim, eps=BATCH_NORM_EPS)
        self.features.weight.requires_grad = False  # a fixed scale: the margin losses normalise it away
        if self.conv1.weight.device.type != "meta":
            self.reset_parameters(torch.Generator().manual_seed(seed))

    @property
    def embedding_dim(self) -> int:
        return self.fc.out_features

    def reset_parameters(self, generator: torch.Generator) -> None:
        """insightface's initial weights: convolutions N(0, 0.1), norms 1 and 0, the rest as PyTorch."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, CONV_STD, generator=generator)
        bound = self.fc.in_features**-0.5
        nn.init.uniform_(self.fc.weight, -bound, bound, generator=generator)
        nn.init.uniform_(self.fc.bias, -bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(torch.flatten(self.bn2(x), 1))
        with torch.autocast(x.device.type, enabled=False):
            embedding: Tensor = self.features(self.fc(x.to(self.fc.weight.dtype)))
        return embedding


def check_stages(num_blocks: Sequence[int], widths: Sequence[int]) -> None:
    """See that there are four of each.

    Raises:
        ValueError: there are not.
    """
    if len(num_blocks) != len(widths) or len(widths) != 4:
        raise ValueError(f"num_blocks {tuple(num_blocks)} and widths {tuple(widths)}: give four of each")


def stage(in_channels: int, channels: int, *, num_blocks: int) -> nn.Sequential:
    first = Block(in_channels, channels, stride=2)
    return nn.Sequential(first, *(Block(channels, channels, stride=1) for _ in range(1, num_blocks)))


def iresnet(depth: int, *, embedding_dim: int = 512, dropout: float = 0.0, seed: int = 0) -> IResNet:
    """IResNet-18, 34, 50 or 100 at full width."""
    if depth not in DEPTHS:
        raise ValueError(f"depth {depth}: choose one of {', '.join(map(str, DEPTHS))}")
    return IResNet(DEPTHS[depth], embedding_dim=embedding_dim, dropout=dropout, seed=seed)
