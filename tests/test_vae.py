"""Latents to bytes: scale, range, rounding, and values that are not finite."""

import math

import pytest
import torch

from d2r_fast.engine.vae import decode_latents


def gray(latents: torch.Tensor) -> torch.Tensor:
    """A decoder that shows channel 0 as it is, three times, at twice the size."""
    return latents[:, :1].repeat(1, 3, 1, 1).repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_pixels_are_scaled_clamped_and_rounded_half_to_even() -> None:
    levels = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 2 * 10.4 / 255 - 1, 2 * 10.6 / 255 - 1])
    latents = torch.zeros(1, 4, 1, 7)
    latents[0, 0, 0] = levels * 0.5
    images, finite = decode_latents(gray, latents, scaling_factor=0.5)
    assert images.dtype == torch.uint8
    assert images.shape == (1, 2, 14, 3)
    assert images[0, 0, ::2, 0].tolist() == [0, 0, 128, 255, 255, 10, 11]
    assert finite.tolist() == [True]


def test_axes_are_rows_columns_channels() -> None:
    def decoder(latents: torch.Tensor) -> torch.Tensor:
        return latents[:, :3]

    latents = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = decode_latents(decoder, latents, scaling_factor=1.0).images
    assert images.is_contiguous()
    expected = ((latents[:, :3] / 2 + 0.5) * 255).round().byte()
    assert all(torch.equal(images[..., channel], expected[:, channel]) for channel in range(3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sample_with_one_bad_value_is_marked_and_black(value: float) -> None:
    latents = torch.zeros(3, 4, 2, 2)
    latents[1, 0, 0, 1] = value
    images, finite = decode_latents(gray, latents, scaling_factor=0.18215)
    assert finite.tolist() == [True, False, True]
    assert images[[0, 2]].unique().tolist() == [128]
    assert images[1].unique().tolist() == [0]
