"""CUT's projection of features at chosen places onto a sphere (its netF, `mlp_sample`)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

NUM_FEATURES = 256
_TINY = 1e-7


class PatchSampler(nn.Module):
    """A small network for each layer of the generator: C to 256 to 256 features, then to unit length.

    Args:
        channels: of the layers, in their order.
    """

    def __init__(self, channels: Sequence[int], *, num_features: int = NUM_FEATURES) -> None:
        super().__init__()
        for layer, width in enumerate(channels):
            first, second = nn.Linear(width, num_features), nn.Linear(num_features, num_features)
            self.add_module(f"mlp_{layer}", nn.Sequential(first, nn.ReLU(), second))

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Vectors of the patches at the given places.

        Args:
            features: (B, C, H, W) of each layer.
            places: (B, P) int64 of each layer, indices into H * W.

        Returns:
            (B, P, 256) of each layer, of unit length.
        """
        return [
            _unit(self.get_submodule(f"mlp_{layer}")(_at(feature, place)))
            for layer, (feature, place) in enumerate(zip(features, places, strict=True))
        ]


def draw_places(
    sizes: Sequence[int], *, num_images: int, num_patches: int, draws: torch.Generator
) -> list[Tensor]:
    """Different places of each layer, the same in all images of a batch, as CUT draws them.

    Args:
        sizes: H * W of each layer; one with fewer places than `num_patches` gives all of them.

    Returns:
        (num_images, min(num_patches, H * W)) int64 of each layer, on the CPU.
    """
    return [torch.randperm(size, generator=draws)[:num_patches].expand(num_images, -1) for size in sizes]


def _at(feature: Tensor, places: Tensor) -> Tensor:
    index = places[:, None].expand(-1, feature.shape[1], -1)
    return feature.flatten(2).gather(2, index).mT


def _unit(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / (lengths + _TINY)
