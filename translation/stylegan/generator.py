"""StyleGAN2's generator: what a checkpoint says of its sizes, and the network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.checkpoint import load_exactly
from d2r_fast.translation.stylegan.layers import EqualLinear, ModulatedConv2d, PixelNorm, StyledConv, ToRGB

SMALLEST = 4
"""Side of the learned constant that everything grows from."""
MAPPING_LEARNING_RATE = 0.01


@dataclass(frozen=True, slots=True)
class GeneratorShape:
    """Sizes of a generator.

    Attributes:
        channels: at 4, 8, 16, ... pixels.
        style_dim: numbers of a style.
        num_mappings: layers from z to w.
    """

    channels: tuple[int, ...]
    style_dim: int = 512
    num_mappings: int = 8

    @property
    def resolution(self) -> int:
        """Side of the image."""
        return SMALLEST << (len(self.channels) - 1)

    @property
    def num_styles(self) -> int:
        """Rows of W+: 14 at 256 pixels, 18 at 1024."""
        return 2 * len(self.channels)

    @property
    def num_noises(self) -> int:
        return 2 * len(self.channels) - 1


def shape_of(tensors: Mapping[str, Tensor], path: Path) -> GeneratorShape:
    """The sizes of the generator that these tensors, by its own names, belong to.

    Raises:
        UserError: not enough of one.
    """
    try:
        levels = 1 + len([name for name in tensors if re.fullmatch(r"to_rgbs\.\d+\.bias", name)])
        channels = [tensors["input.input"].shape[1]]
        channels += [tensors[f"convs.{2 * level}.conv.weight"].shape[1] for level in range(levels - 1)]
        style_dim = tensors["conv1.conv.modulation.weight"].shape[1]
        num_mappings = len([name for name in tensors if re.fullmatch(r"style\.\d+\.weight", name)])
    except (KeyError, IndexError) as error:
        raise UserError(
            f"{path}: its StyleGAN2 lacks {error.args[0]}: give the checkpoint as its program wrote it"
        ) from None
    return GeneratorShape(tuple(channels), style_dim, num_mappings)


class Generator(nn.Module):
    """Styles (N, num_styles, style_dim) -> images (N, 3, resolution, resolution), about -1 to 1.

    Noise is the checkpoint's, the same for every image, as e4e's and pSp's programs run it. After weights are loaded
    `settle` has to be called.
    """

    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        self.shape = shape
        channels, style_dim = shape.channels, shape.style_dim
        mappings = [
            EqualLinear(style_dim, style_dim, learning_rate=MAPPING_LEARNING_RATE, activate=True)
            for _ in range(shape.num_mappings)
        ]
        self.style = nn.Sequential(PixelNorm(), *mappings)
        self.input = _Constant(channels[0])
        self.conv1 = StyledConv(channels[0], channels[0], style_dim)
        self.to_rgb1 = ToRGB(channels[0], style_dim, upsample=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for before, after in pairwise(channels):
            self.convs.append(StyledConv(before, after, style_dim, upsample=True))
            self.convs.append(StyledConv(after, after, style_dim))
            self.to_rgbs.append(ToRGB(after, style_dim))
        self.noises = _Noises(shape.num_noises)

    def settle(self) -> None:
        """Computes what depends on the weights alone."""
        for module in self.modules():
            if isinstance(module, ModulatedConv2d):
                module.settle()

    def slim(self) -> None:
        """Drops what makes no image of styles: the way from z to w, and weights as they stand in files."""
        del self.style
        for module in self.modules():
            if isinstance(module, ModulatedConv2d):
                del module.weight

    def forward(self, styles: Tensor, noises: Sequence[Tensor] | None = None) -> Tensor:
        """Args:
        styles: (N, num_styles, style_dim) float32.
        noises: each (1 or N, 1, side, side), at 4, 8, 8, 16, 16, ... pixels; the checkpoint's if None.
        """
        first, *others = self.noises.listed() if noises is None else noises
        x = self.conv1(self.input.input, styles[:, 0], first)
        colours: Tensor = self.to_rgb1(x, styles[:, 1])
        for level, to_rgb in enumerate(self.to_rgbs):
            place = 2 * level
            x = self.convs[place](x, styles[:, place + 1], others[place])
            x = self.convs[place + 1](x, styles[:, place + 2], others[place + 1])
            colours = to_rgb(x, styles[:, place + 3], colours)
        return colours


class _Constant(nn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.zeros(1, num_channels, SMALLEST, SMALLEST))


class _Noises(nn.Module):
    """noise_0 at 4 pixels, noise_1 and noise_2 at 8, ..."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        for index in range(count):
            side = SMALLEST << ((index + 1) // 2)
            self.register_buffer(f"noise_{index}", torch.zeros(1, 1, side, side))

    def listed(self) -> list[Tensor]:
        return [self.get_buffer(f"noise_{index}") for index in range(self._count)]


def load_generator(tensors: Mapping[str, Tensor], path: Path) -> Generator:
    """The generator of these tensors, by its own names, float32 on the CPU, without gradients.

    Raises:
        UserError: tensors that are missing, too many, of other shapes, or not finite.
    """
    with torch.device("meta"):
        generator = Generator(shape_of(tensors, path))
    load_exactly(generator, tensors, path)
    generator.settle()
    return generator.eval().requires_grad_(False)
