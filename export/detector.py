"""SCRFD with keypoints (Guo et al., "Sample and Computation Redistribution for Face Detection", ICLR 2022).

The shape of insightface's scrfd_10g_bnkps, and of a miniature with the same outputs: a ResNetV1e of basic
blocks, a path-aggregation pyramid over strides 8, 16 and 32, and per stride one tower that scores, boxes and
keypoints share. It is here to be given random weights and exported: as in a deployed graph every convolution
has a bias in place of the batch norm that training would need.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.files import Written
from d2r_fast.export.graph import BATCH, export_onnx

STRIDES = (8, 16, 32)
NUM_ANCHORS = 2
NUM_VALUES = {"score": 1, "bbox": 4, "kps": 10}
"""Output kind -> values per anchor, in the order of the outputs."""
START = {"score": -4.6, "bbox": 3.0, "kps": 0.0}
"""Where untrained predictions start: scores at 1 in 100 as in focal loss (Lin et al., ICCV 2017), boxes three
strides to each side, keypoints at their place."""
OUTPUT_NAMES = [f"{kind}_{stride}" for kind in NUM_VALUES for stride in STRIDES]
SIZE_MULTIPLE = 32
MAX_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Shape:
    """Blocks and planes per backbone stage, channels of pyramid and head, convolutions of a head's tower."""

    num_blocks: tuple[int, int, int, int]
    planes: tuple[int, int, int, int]
    pyramid: int
    head: int
    num_convs: int


SCRFD_10G = Shape((3, 4, 2, 3), (56, 88, 88, 224), pyramid=56, head=80, num_convs=3)
SCRFD_MINI = Shape((1, 1, 1, 1), (8, 8, 16, 16), pyramid=8, head=16, num_convs=1)


def conv(in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is pooled by averages before its projection (the "e" of V1e)."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, stride=stride)
        self.conv2 = conv(channels, channels)
        pool = [nn.AvgPool2d(stride, stride)] if stride > 1 else []
        project = [conv(in_channels, channels, kernel=1)] if stride > 1 or in_channels != channels else []
        self.shortcut = nn.Sequential(*pool, *project)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class Backbone(nn.Module):
    """Images (N,3,H,W) -> the maps of the last three stages, strides 8, 16 and 32."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.planes[0]
        self.stem = nn.Sequential(
            conv(3, width // 2, stride=2), nn.ReLU(),
            conv(width // 2, width // 2), nn.ReLU(),
            conv(width // 2, width), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        self.stages = nn.ModuleList()
        for num_blocks, channels, stride in zip(shape.num_blocks, shape.planes, (1, 2, 2, 2), strict=True):
            blocks = [BasicBlock(width, channels, stride=stride)]
            blocks += [BasicBlock(channels, channels, stride=1) for _ in range(1, num_blocks)]
            self.stages.append(nn.Sequential(*blocks))
            width = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]


class Pyramid(nn.Module):
    """PAFPN (Liu et al., CVPR 2018): coarse maps added downwards, then fine ones upwards."""

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()

        def convolutions(count: int, stride: int = 1) -> nn.ModuleList:
            return nn.ModuleList(conv(channels, channels, stride=stride) for _ in range(count))

        self.lateral = nn.ModuleList(conv(width, channels, kernel=1) for width in in_channels)
        self.smooth = convolutions(3)
        self.down = convolutions(2, stride=2)
        self.merge = convolutions(2)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (lateral(x) for lateral, x in zip(self.lateral, maps, strict=True))
        middle = middle + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        fine = fine + F.interpolate(middle, scale_factor=2.0, mode="nearest")
        fine, middle, coarse = (
            smooth(x) for smooth, x in zip(self.smooth, (fine, middle, coarse), strict=True)
        )
        middle = middle + self.down[0](fine)
        coarse = coarse + self.down[1](middle)
        return [fine, self.merge[0](middle), self.merge[1](coarse)]


class Head(nn.Module):
    """One stride's map (N,C,h,w) -> scores, boxes and keypoints (N, h*w*2, 1 | 4 | 10)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        widths = (shape.pyramid, *(shape.head,) * shape.num_convs)
        self.tower = nn.Sequential(
            *(nn.Sequential(conv(before, after), nn.ReLU()) for before, after in pairwise(widths))
        )
        self.predict = nn.ModuleDict(
            {kind: conv(shape.head, NUM_ANCHORS * count) for kind, count in NUM_VALUES.items()}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.tower(x)
        rows = {
            kind: self.predict[kind](x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, count)
            for kind, count in NUM_VALUES.items()
        }
        return rows | {"score": rows["score"].sigmoid()}


class SCRFD(nn.Module):
    """Images (N,3,H,W) RGB, (x - 127.5) / 128, sides multiples of 32 -> nine tensors.

    Scores of strides 8, 16, 32 in [0,1], then boxes (left, top, right, bottom distances), then keypoints
    (five x,y offsets), both in units of the stride from the anchor's place; rows run along the image's rows,
    two anchors per place. With `batched` every output is (N,rows,values), otherwise (rows,values) for N = 1,
    as in the released file. At 640x640 there are 12800, 3200 and 800 rows.
    """

    def __init__(self, shape: Shape = SCRFD_10G, *, batched: bool = False) -> None:
        super().__init__()
        self.batched = batched
        with torch.random.fork_rng(devices=()):
            self.backbone = Backbone(shape)
            self.pyramid = Pyramid(shape.planes[1:], shape.pyramid)
            self.heads = nn.ModuleList(Head(shape) for _ in STRIDES)

    def temper(self) -> None:
        """Scale weights freshly drawn with He's gain, in place, so that activations stay near one.

        Residual branches and the pyramid's linear convolutions are halved, for variances add up there.
        """
        halved = [block.conv2 for block in self.modules() if isinstance(block, BasicBlock)]
        halved += [module for module in self.pyramid.modules() if isinstance(module, nn.Conv2d)]
        with torch.no_grad():
            for convolution in halved:
                convolution.weight *= 0.5
            for name, convolution in self.heads.named_modules():
                if isinstance(convolution, nn.Conv2d) and ".predict." in name:
                    convolution.weight *= 0.3
                    assert convolution.bias is not None
                    convolution.bias += START[name.rpartition(".")[2]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.pyramid(self.backbone(x))
        rows = [head(x) for head, x in zip(self.heads, maps, strict=True)]
        outputs = [level[kind] for kind in NUM_VALUES for level in rows]
        return tuple(outputs if self.batched else [output.flatten(0, 1) for output in outputs])


def export_detector(network: SCRFD, path: Path) -> Written:
    """Write `network` (in eval mode) as ONNX (opset 18): input `input.1`, height and width dynamic.

    The batch is dynamic where the network is `batched`, and 1 otherwise. Outputs are score_8, score_16,
    score_32, bbox_8, ..., kps_32.
    """
    sides = {
        axis: SIZE_MULTIPLE * torch.export.Dim(name, min=2, max=MAX_SIZE // SIZE_MULTIPLE)
        for axis, name in ((2, "rows"), (3, "columns"))
    }
    images = torch.zeros(2 if network.batched else 1, 3, 160, 128)
    batch = {0: BATCH} if network.batched else {}
    return export_onnx(
        network, {"input.1": images}, path, outputs=OUTPUT_NAMES, dynamic_axes={"input.1": batch | sides}
    )
