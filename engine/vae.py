"""From clean latents to pixels."""

from collections.abc import Callable
from typing import NamedTuple

import torch

Decoder = Callable[[torch.Tensor], torch.Tensor]
"""latents (N, 4, h, w) float32 as the VAE knows them -> images (N, 3, H, W) float32, about -1 to 1."""


class Decoded(NamedTuple):
    """Images, and which of them are images.

    Attributes:
        images: (N, H, W, 3) uint8 RGB; all zero where not finite.
        finite: (N,) bool, False where the networks overflowed. Such an image must be failed, never kept.
    """

    images: torch.Tensor
    finite: torch.Tensor


def decode_latents(decoder: Decoder, latents: torch.Tensor, *, scaling_factor: float) -> Decoded:
    """Decodes one batch as Stable Diffusion does: latents / scaling factor, then [-1, 1] to 0..255, rounded.

    Args:
        decoder: the VAE's decoder.
        latents: (N, 4, h, w) float32.
        scaling_factor: of the VAE, 0.18215 for Stable Diffusion 1.5.
    """
    pixels = decoder(latents / scaling_factor)
    finite = pixels.isfinite().flatten(1).all(1)
    pixels = torch.where(finite[:, None, None, None], pixels, -1.0)
    images = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Decoded(images.permute(0, 2, 3, 1).contiguous(), finite)
