"""The encoders of e4e and pSp: an improved residual network with squeeze and excitation, a feature pyramid, and a
small network of strided convolutions for every row of W+.

Tov et al., "Designing an Encoder for StyleGAN Image Manipulation" (SIGGRAPH 2021): the first row is w0, each other
row is w0 plus what its network gives. Richardson et al., "Encoding in Style" (CVPR 2021): each row by itself. Names of
tensors are the same in both.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.checkpoint import load_exactly
from d2r_fast.translation.stylegan.layers import EqualLinear

Kind = Literal["e4e", "psp"]
NUM_STAGES = 4
DOWNSCALE = 16
"""Of the four stages together: one stride of 2 each."""


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """Sizes of an encoder.

    Attributes:
        num_blocks, widths: of the four stages; (3, 4, 14, 3) and (64, 128, 256, 512) as published.
        stem_width: channels of the first layer.
        reduction: of squeeze and excitation.
        num_convs: of each row's network. As published 4 for rows 0 to 2, 5 for rows 3 to 6, 6 for all others: they
            look at the features of a 16th, an 8th and a 4th of the image's side.
        style_dim: numbers of a row.
    """

    num_blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    reduction: int
    num_convs: tuple[int, ...]
    style_dim: int = 512

    @property
    def side(self) -> int:
        """Of the image in pixels: what the first row's convolutions bring down to one, 256 as published."""
        return DOWNSCALE << self.num_convs[0]

    @property
    def num_styles(self) -> int:
        return len(self.num_convs)

    @property
    def ends(self) -> tuple[int, ...]:
        """Number of blocks up to the end of each stage."""
        return tuple(sum(self.num_blocks[: stage + 1]) for stage in range(NUM_STAGES))


def shape_of(tensors: Mapping[str, Tensor], path: Path) -> EncoderShape:
    """The sizes of the encoder that these tensors, by its own names, belong to.

    Raises:
        UserError: not enough of one, or one for other images than RGB.
    """
    try:
        shape = _read_shape(tensors)
        channels = tensors["input_layer.0.weight"].shape[1]
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{path}: its encoder lacks {error.args[0]}: give e4e's (Encoder4Editing) or pSp's (GradualStyleEncoder)"
        ) from None
    if channels != 3:
        raise UserError(
            f"{path}: its encoder takes {channels} channels (sketches or labels): give one for RGB"
        )
    if len(shape.num_blocks) != NUM_STAGES or not shape.num_convs or shape.num_convs[0] < 1:
        raise UserError(
            f"{path}: its encoder has stages of {shape.num_blocks} blocks: expected {NUM_STAGES} stages"
        )
    if not {count - shape.num_convs[0] for count in shape.num_convs} <= {0, 1, 2}:
        raise UserError(
            f"{path}: the rows of its encoder have {shape.num_convs} convolutions, and there are features for the "
            "first row's number and up to two more: give the checkpoint as its program wrote it"
        )
    return shape


def _read_shape(tensors: Mapping[str, Tensor]) -> EncoderShape:
    total = len({match[1] for name in tensors if (match := re.match(r"body\.(\d+)\.", name))})
    # The first stage keeps its number of channels: a shortcut with weights begins each of the others.
    starts = [n for n in range(total) if n == 0 or f"body.{n}.shortcut_layer.0.weight" in tensors]
    widths = tuple(tensors[f"body.{start}.res_layer.1.weight"].shape[0] for start in starts)
    num_styles = len({match[1] for name in tensors if (match := re.match(r"styles\.(\d+)\.", name))})
    counts = [
        len([name for name in tensors if re.fullmatch(rf"styles\.{style}\.convs\.\d+\.weight", name)])
        for style in range(num_styles)
    ]
    return EncoderShape(
        num_blocks=tuple(end - start for start, end in zip(starts, [*starts[1:], total], strict=True)),
        widths=widths,
        stem_width=tensors["input_layer.0.weight"].shape[0],
        reduction=widths[0] // tensors["body.0.res_layer.5.fc1.weight"].shape[0],
        num_convs=tuple(counts),
        style_dim=tensors["styles.0.linear.weight"].shape[0],
    )


class SqueezeExcite(nn.Module):
    """Hu et al., "Squeeze-and-Excitation Networks" (CVPR 2018), without biases."""

    def __init__(self, num_channels: int, *, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(num_channels, num_channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(num_channels // reduction, num_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Block(nn.Module):
    """BN, conv, PReLU, strided conv, BN, squeeze and excitation, plus the shortcut."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, reduction: int) -> None:
        super().__init__()
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if in_channels == channels
            else nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            SqueezeExcite(channels, reduction=reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return y


class StyleHead(nn.Module):
    """Features (N, C, 2**num_convs, 2**num_convs) -> one row (N, C)."""

    def __init__(self, num_channels: int, *, num_convs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers += [nn.Conv2d(num_channels, num_channels, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(num_channels, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        row: Tensor = self.linear(self.convs(x).flatten(1))
        return row


class Encoder(nn.Module):
    """Images (N, 3, side, side) in [-1, 1] -> W+ (N, num_styles, style_dim), before the average latent is added."""

    def __init__(self, shape: EncoderShape, *, kind: Kind) -> None:
        super().__init__()
        self.shape, self.kind = shape, kind
        width, dim = shape.stem_width, shape.style_dim
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        blocks = []
        for count, channels in zip(shape.num_blocks, shape.widths, strict=True):
            for block in range(count):
                stride = 2 if block == 0 else 1
                blocks.append(Block(width, channels, stride=stride, reduction=shape.reduction))
                width = channels
        self.body = nn.Sequential(*blocks)
        self.styles = nn.ModuleList(StyleHead(dim, num_convs=count) for count in shape.num_convs)
        self.latlayer1 = nn.Conv2d(shape.widths[2], dim, 1)
        self.latlayer2 = nn.Conv2d(shape.widths[1], dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        pyramid = self._pyramid(images)
        coarsest = self.shape.num_convs[0]
        rows = torch.stack(
            [
                head(pyramid[count - coarsest])
                for head, count in zip(self.styles, self.shape.num_convs, strict=True)
            ],
            1,
        )
        return rows if self.kind == "psp" else torch.cat([rows[:, :1], rows[:, :1] + rows[:, 1:]], 1)

    def _pyramid(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of a 16th, an 8th and a 4th of the image's side."""
        x, stages = self.input_layer(images), []
        for index, block in enumerate(self.body):
            x = block(x)
            if index + 1 in self.shape.ends:
                stages.append(x)
        middle = _upsampled(stages[3], self.latlayer1(stages[2]))
        return stages[3], middle, _upsampled(middle, self.latlayer2(stages[1]))


def _upsampled(coarse: Tensor, fine: Tensor) -> Tensor:
    size = (fine.shape[2], fine.shape[3])
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=True) + fine


def load_encoder(tensors: Mapping[str, Tensor], path: Path, *, kind: Kind) -> Encoder:
    """The encoder of these tensors, by its own names, float32 on the CPU, without gradients.

    Raises:
        UserError: tensors that are missing, too many, of other shapes, or not finite.
    """
    with torch.device("meta"):
        encoder = Encoder(shape_of(tensors, path), kind=kind)
    load_exactly(encoder, tensors, path)
    return encoder.eval().requires_grad_(False)
