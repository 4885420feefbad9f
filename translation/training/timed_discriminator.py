"""UNSB's patch discriminator that knows the time of the bridge, and its energy, the same network of four images."""

import itertools

from torch import Tensor, nn

from d2r_fast.translation.gan.blocks import InstanceNorm
from d2r_fast.translation.gan.blur import BinomialDown
from d2r_fast.translation.gan.unsb import sines

_KERNEL = 4
_SLOPE = 0.2
_WIDENING = (1, 2, 4, 8)


class TimedDiscriminator(nn.Module):
    """Three layers that halve the image by a blur, one that does not, and a last one to a number for each patch.

    Names are those of the released program's `netD` and `netE`.

    Args:
        channels: of the input: 3 for an image, 12 for the energy of two pairs.
        ndf: channels of the first layer.
    """

    def __init__(self, channels: int = 3, *, ndf: int = 64) -> None:
        super().__init__()
        widths = (channels, *(ndf * factor for factor in _WIDENING))
        self.model_main = nn.ModuleList(
            _TimedLayer(before, after, 4 * ndf, norm=layer > 0, halves=layer < len(_WIDENING) - 1)
            for layer, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.final_conv = nn.Conv2d(widths[-1], 1, _KERNEL, padding=1)
        self.t_embed = _TimeEmbedding(4 * ndf)

    def forward(self, images: Tensor, time: Tensor) -> Tensor:
        """Scores of patches.

        Args:
            images: (B, channels, H, W).
            time: (1,) or (B,) int64, the state's number on the bridge.

        Returns:
            (B, 1, h, w).
        """
        embedding = self.t_embed(time)
        for layer in self.model_main:
            images = layer(images, embedding)
        scores: Tensor = self.final_conv(images)
        return scores


class _TimedLayer(nn.Module):
    def __init__(self, before: int, after: int, num_time: int, *, norm: bool, halves: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, _KERNEL, padding=1)
        self.norm = InstanceNorm() if norm else nn.Identity()
        self.act = nn.LeakyReLU(_SLOPE)
        self.down = BinomialDown(after)
        self.dense = nn.Linear(num_time, after)
        self._halves = halves

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        hidden: Tensor = self.act(self.norm(self.conv1(images) + self.dense(embedding)[..., None, None]))
        return self.down(hidden) if self._halves else hidden


class _TimeEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width
        self.main = nn.Sequential(
            nn.Linear(width, width), nn.LeakyReLU(_SLOPE), nn.Linear(width, width), nn.LeakyReLU(_SLOPE)
        )

    def forward(self, time: Tensor) -> Tensor:
        embedding: Tensor = self.main(sines(time, self._width))
        return embedding
