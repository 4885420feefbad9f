"""Halving and doubling by fixed filters, so that nothing aliases: Zhang, "Making convolutional networks shift-invariant
again", ICML 2019.

Every channel is filtered alone. The filters are buffers of the published networks and stand in their checkpoints;
`check_filters` sees that they are the published ones, as two of the four are computed in another way here. Where a
published layer pads and then slices a transposed convolution, the slice is a larger `padding` here, and zeros that are
padded are left out: the sums are of the same numbers.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError

SAME = 1e-6
"""How far a number of a stored filter may be from the published one: float32's rounding of it."""


def gaussian(size: int) -> Tensor:
    """VSAIT's filter (size, size): a normal density of 1 pixel's deviation, sum 1."""
    places = torch.arange(size, device="cpu").float() - (size - 1) / 2
    density = torch.exp(-(places**2)[:, None] / 2 - (places**2)[None, :] / 2)
    return density / density.sum()


def binomial(row: tuple[int, ...]) -> Tensor:
    """CUT's filter: the outer product of a row of binomial coefficients, sum 1."""
    taps = torch.tensor(row, device="cpu").float()
    return taps[:, None] * taps[None, :] / taps.sum() ** 2


class Blur(nn.Module):
    """(N, C, H, W) -> (N, C, about H / 2 or exactly 2 H, ...), by one filter for all channels."""

    def __init__(self, channels: int, buffer: str, published: Tensor) -> None:
        super().__init__()
        self.published = published
        self.buffer = buffer
        self.channels = channels
        self.register_buffer(buffer, torch.tensor(published.tolist()).repeat(channels, 1, 1, 1))

    @property
    def taps(self) -> Tensor:
        """(C, 1, k, k)."""
        taps = getattr(self, self.buffer)
        assert isinstance(taps, Tensor)
        return taps

    def is_published(self) -> bool:
        """Whether the filter is still the one that this was made with."""
        return bool(((self.taps.cpu() - self.published).abs() <= SAME).all())


class GaussianDown(Blur):
    """VSAIT's halving: 3x3, zeros beyond the border."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, "weight", gaussian(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.taps, stride=2, padding=1, groups=self.channels)


class GaussianUp(Blur):
    """VSAIT's doubling: 4x4 transposed, zeros beyond the border."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, "weight", 4 * gaussian(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.taps, stride=2, padding=1, groups=self.channels)


class BinomialDown(Blur):
    """CUT's halving: 3x3, reflected at the border."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, "filt", binomial((1, 2, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.taps, stride=2, groups=self.channels)


class BinomialUp(Blur):
    """CUT's doubling: 4x4 transposed, the border repeated.

    A new pixel is 3/4 of the old one that it lies in and 1/4 of the next, each way: bilinear interpolation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, "filt", 4 * binomial((1, 3, 3, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def check_filters(network: nn.Module, path: Path) -> None:
    """Sees that all filters of a loaded network are the published ones.

    Raises:
        UserError: one is not; `path` is the checkpoint's.
    """
    changed = list(_changed(network))
    if changed:
        raise UserError(
            f"{path} has filters of its own in {', '.join(changed[:3])}: only those of the published program are "
            "computed here"
        )


def _changed(network: nn.Module) -> Iterator[str]:
    for name, module in network.named_modules():
        if isinstance(module, Blur) and not module.is_published():
            yield f"{name}.{module.buffer}"
