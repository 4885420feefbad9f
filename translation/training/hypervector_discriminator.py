"""VSAIT's discriminator of hypervectors, and the hinge losses that it is trained by (Lim and Ye, 2017)."""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 1024
_SLOPE = 0.2


class HypervectorDiscriminator(nn.Module):
    """Three layers over each hypervector, on its own."""

    def __init__(self, num_dimensions: int, *, width: int = WIDTH) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(num_dimensions, width),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(width, width),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(width, 1),
        )

    def forward(self, hypervectors: Tensor) -> Tensor:
        """Scores (N,) of hypervectors (N, num_dimensions): high where they look like the target's."""
        scores: Tensor = self.net(hypervectors)[:, 0].float()
        return scores


def hinge_real(scores: Tensor) -> Tensor:
    """The discriminator's loss on target images: nothing above 1."""
    return F.relu(1 - scores).mean()


def hinge_fake(scores: Tensor) -> Tensor:
    """The discriminator's loss on translations: nothing below -1."""
    return F.relu(1 + scores).mean()
