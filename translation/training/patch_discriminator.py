"""CUT's PatchGAN discriminator: a score for every patch of 70 x 70 pixels, or what an antialiased one sees of them."""

from torch import Tensor, nn

from d2r_fast.translation.gan.blocks import InstanceNorm
from d2r_fast.translation.gan.blur import BinomialDown

_KERNEL = 4
_SLOPE = 0.2
_MOST = 8
"""Times ndf that a layer has channels at most."""


class PatchDiscriminator(nn.Module):
    """Three convolutions that halve the image by a blur, one that does not, and a last one to the scores.

    Names of its tensors are those of CUT's `netD` (basic, instance norm).

    Args:
        channels: of the input.
        ndf: channels of the first layer.
        num_layers: how often the image is halved.
    """

    def __init__(self, channels: int = 3, *, ndf: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            _conv(channels, ndf),
            nn.LeakyReLU(_SLOPE),
            BinomialDown(ndf),
        ]
        before = ndf
        for layer in range(1, num_layers + 1):
            after = ndf * min(2**layer, _MOST)
            layers += [_conv(before, after), InstanceNorm(), nn.LeakyReLU(_SLOPE)]
            if layer < num_layers:
                layers.append(BinomialDown(after))
            before = after
        layers.append(_conv(before, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, 1, h, w) of images (B, channels, H, W)."""
        scores: Tensor = self.model(images)
        return scores


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, _KERNEL, padding=1)
