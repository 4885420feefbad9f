"""UNSB's generator: Kim et al., "Unpaired image-to-image translation via neural Schroedinger bridge", ICLR 2024.

CUT's network whose blocks also take a random code, and were meant to take the time. As it is released, a block gives
each layer of its first half the block's own input, so that only the last of them, the instance norm, counts:

    x + conv_fin(adaptive(norm(x), z))

The first convolution of every block, the projection of the time and with it the whole time embedding change nothing,
and 7.17 of 14.68 million numbers are never looked at. Released weights were trained like that, and this is the block
that loads them; the work that changes nothing is not done.

The block as it was meant has its first convolution. Run in turn, as the released loop seems to intend, the time would
still change nothing: it is added to a padded map before a convolution, the same number everywhere in a channel, and
the instance norm takes it off again. So here it is added after the norm, where the code can scale it. Such weights are
marked by a tensor `intended_blocks` beside the others, for which the released program has no name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from d2r_fast.translation.gan.blocks import (
    InstanceNorm,
    build_quietly,
    count_blocks,
    load_generator,
    num_channels,
    run_layers,
)
from d2r_fast.translation.gan.decent import FIRST, head, tail

MARKER = "intended_blocks"
"""Tensor that says that the blocks are the intended ones."""
SLOPE = 0.2
"""Of the leaky ReLUs in the two mappings."""
LONGEST = 10_000.0
"""The longest of the sines' periods, over 2 pi."""


class PixelNorm(nn.Module):
    """Rows of mean square 1."""

    def forward(self, codes: Tensor) -> Tensor:
        size: Tensor = codes.square().mean(1, keepdim=True)
        return codes * torch.rsqrt(size + 1e-8)


class AdaptiveLayer(nn.Module):
    """A scale and a shift for every channel, from a code: (N, C, H, W) and (N, D) -> (N, C, H, W)."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.style_net = nn.Linear(code, 2 * channels)
        with torch.no_grad():
            self.style_net.bias.copy_((torch.arange(2 * channels) < channels).float())

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        style: Tensor = self.style_net(code)
        scale, shift = style[:, :, None, None].chunk(2, 1)
        return scale * x + shift


class Block(nn.Module):
    """The residual block: (N, C, H, W), the time's and the noise's codes (N, C) -> (N, C, H, W)."""

    def __init__(self, channels: int, *, intended: bool) -> None:
        super().__init__()
        self.intended = intended
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), InstanceNorm()
        )
        self.conv_fin = nn.Sequential(
            nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), InstanceNorm()
        )
        self.adaptive = AdaptiveLayer(channels, channels)
        self.Dense_time = nn.Linear(channels, channels)
        if not intended:
            self.style = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor, time: Tensor | None, code: Tensor) -> Tensor:
        residual: Tensor = self.conv_fin(self.adaptive(self._first_half(x, time), code))
        return x + residual

    def _first_half(self, x: Tensor, time: Tensor | None) -> Tensor:
        _, _, norm = self.conv_block
        if not self.intended:
            normal: Tensor = norm(x)
            return normal
        assert time is not None
        shift: Tensor = self.Dense_time(time)
        first: Tensor = self.conv_block(x)
        return first + shift[:, :, None, None]


class UnsbGenerator(nn.Module):
    """One evaluation: noisy images, their step and a random code -> what the bridge ends in.

    Names are those of the published network: `model.N` (12 layers), `model_res.N`, `model_upsample.N`, `z_transform.N`,
    `time_embed.N`.

    Args:
        channels: of the first convolution; four times as many in the residual blocks, and numbers in a code.
        num_blocks: residual blocks.
        num_mappings: linear layers that a random code goes through, the published `n_mlp` and one.
        intended: blocks with their first convolution and the time, for new training.
    """

    def __init__(
        self, channels: int = 64, num_blocks: int = 9, *, num_mappings: int = 4, intended: bool = False
    ) -> None:
        super().__init__()
        self.channels = channels
        self.intended = intended
        code = 4 * channels
        self.model_res = build_quietly(
            lambda: nn.ModuleList(Block(code, intended=intended) for _ in range(num_blocks))
        )
        self.model = build_quietly(lambda: nn.Sequential(*head(channels)))
        self.model_upsample = build_quietly(lambda: nn.Sequential(*tail(channels)))
        self.z_transform = build_quietly(
            lambda: nn.Sequential(
                PixelNorm(), *(layer for _ in range(num_mappings) for layer in _linear(code, code))
            )
        )
        self.time_embed = build_quietly(lambda: nn.Sequential(*_linear(channels, code), *_linear(code, code)))
        if intended:
            self.register_buffer(MARKER, torch.ones(()))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], path: Path) -> Self:
        """The network of a checkpoint, in eval mode, with the intended blocks where the checkpoint is marked so.

        Raises:
            UserError: tensors that are not exactly one's own; `path` is named.
        """
        channels = num_channels(tensors, FIRST, path)
        num_blocks = count_blocks(tensors, r"model_res\.(\d+)\.")
        num_mappings = count_blocks(tensors, r"z_transform\.(\d+)\.weight$")
        intended = MARKER in tensors
        return load_generator(
            lambda: cls(channels, num_blocks, num_mappings=num_mappings, intended=intended), tensors, path
        )

    @property
    def code_length(self) -> int:
        """Numbers in a random code."""
        return 4 * self.channels

    def forward(self, images: Tensor, time: Tensor, codes: Tensor) -> Tensor:
        """One evaluation.

        Args:
            images: (N, 3, H, W) float32 in about [-1, 1]; H and W multiples of 4.
            time: (N,) or (1,) int64, the number of the step, 0 to 4; looked at by the intended blocks alone.
            codes: (N, code_length) float32, standard normal.

        Returns:
            (N, 3, H, W) float32 in [-1, 1].
        """
        x = self._blocks(self.model(images), time, codes, len(self.model_res), ())[0]
        translated: Tensor = self.model_upsample(x)
        return translated

    def features(self, images: Tensor, layers: Sequence[int], time: Tensor, codes: Tensor) -> list[Tensor]:
        """What stands after these layers of `model` and then `model_res`, counted on; nothing beyond the last is run.

        UNSB looks at 0, 4, 8, 12 and 16: the padded image, the two halvings' convolutions, and the first and fifth
        block.
        """
        num_first = len(self.model)
        assert max(layers) < num_first + len(self.model_res), layers
        x, kept = run_layers(list(self.model)[: max(layers) + 1], images, layers)
        later = [layer - num_first for layer in layers if layer >= num_first]
        return [*kept, *(self._blocks(x, time, codes, max(later) + 1, later)[1] if later else ())]

    def _blocks(
        self, x: Tensor, time: Tensor, codes: Tensor, num: int, wanted: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        code: Tensor = self.z_transform(codes)
        moment: Tensor | None = self.time_embed(sines(time, self.channels)) if self.intended else None
        kept = []
        for number in range(num):
            x = self.model_res[number](x, moment, code)
            if number in wanted:
                kept.append(x)
        return x, kept


def sines(time: Tensor, length: int) -> Tensor:
    """Sines, then cosines, of a step's number at `length` / 2 frequencies from 1 to 1/10,000: (N,) -> (N, length).

    As Vaswani et al.'s positions ("Attention is all you need", NeurIPS 2017), halves in place of pairs.
    """
    half = length // 2
    powers = torch.arange(half, dtype=torch.float32, device=time.device) / (half - 1)
    angles = time.float()[:, None] * LONGEST ** -powers[None, :]
    return torch.cat([angles.sin(), angles.cos()], 1)


def _linear(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.LeakyReLU(SLOPE)]
