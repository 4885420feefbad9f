"""Random projection of image features to hypervectors: VSAIT's locality-sensitive hashing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

NUM_DIMENSIONS = 4096
PATCH = 16
"""Side in pixels of the image patch that a hypervector stands for."""
_TINY = 1e-5


class HypervectorProjection(nn.Module):
    """Cosines of a patch's features, all layers together, to fixed random directions.

    Layer n of the features is halved n times; its patches of 16 / 2^n and those of the other layers at the same place
    are one long vector (31,232 numbers for VGG-19, and 512 MB of directions). No two patches overlap, so the published
    convolutions with a stride as wide as their kernel are one product of matrices.

    Args:
        channels: of the layers, from the largest.
        num_dimensions: of a hypervector.
        seed: of the directions. They are no part of the state: the seed draws them again.
    """

    directions: Tensor
    lengths: Tensor

    def __init__(
        self, channels: Sequence[int], *, num_dimensions: int = NUM_DIMENSIONS, seed: int = 0
    ) -> None:
        super().__init__()
        self._sides = [PATCH >> layer for layer in range(len(channels))]
        length = sum(width * side**2 for width, side in zip(channels, self._sides, strict=True))
        draws = torch.Generator().manual_seed(seed)
        directions = torch.randn(num_dimensions, length, generator=draws)
        self.register_buffer("directions", directions, persistent=False)
        self.register_buffer("lengths", torch.linalg.vector_norm(directions, dim=1), persistent=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Hypervectors of all patches, in float32 whatever the features were computed in.

        Args:
            features: (B, C, h, w) of each layer, as the channels say.

        Returns:
            (B * H // 16 * W // 16, num_dimensions) in [-1, 1], by image, row and column.
        """
        pairs = zip(features, self._sides, strict=True)
        patches = torch.cat([_patches(feature, side) for feature, side in pairs], dim=1).to(
            self.lengths.dtype
        )
        with torch.autocast(patches.device.type, enabled=False):
            lengths: Tensor = torch.linalg.vector_norm(patches, dim=1, keepdim=True)
            cosines: Tensor = (patches @ self.directions.T) / (lengths * self.lengths + _TINY)
        return cosines


def _patches(feature: Tensor, side: int) -> Tensor:
    batch, channels, height, width = feature.shape
    rows, columns = height // side, width // side
    cut = feature[:, :, : rows * side, : columns * side]
    grid = cut.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(batch * rows * columns, channels * side**2)
