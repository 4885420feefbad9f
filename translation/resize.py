"""Changing the size of images: to what a network takes, and back."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

How = Literal["bilinear", "bicubic", "area"]


def resize(images: Tensor, size: tuple[int, int], *, how: How) -> Tensor:
    """Images in another size; each row depends on its image alone, and the same size returns what was given.

    Args:
        images: (B, 3, H, W) float32.
        size: height and width in pixels.
        how: bilinear or bicubic, by pixel centres (align_corners off); a side that shrinks is filtered first, over the
            pixels that each new one stands for, so that nothing aliases. Enlarging by bilinear is OpenCV's
            INTER_LINEAR. area: the mean of the pixels that each new one covers.

    Returns:
        (B, 3, h, w) float32. Bicubic overshoots the range by a little at edges.
    """
    if tuple(images.shape[2:]) == size:
        return images
    if how == "area":
        return functional.interpolate(images, size=size, mode="area")
    shrinks = size[0] < images.shape[2] or size[1] < images.shape[3]
    return functional.interpolate(images, size=size, mode=how, align_corners=False, antialias=shrinks)


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Images (B, C, H, W) with reflections below and on the right, so that both sides are multiples; `crop` undoes it.

    The border pixel is not repeated, as in torch's reflect; an image smaller than its border is reflected again.
    """
    height, width = (-(-side // multiple) * multiple for side in images.shape[2:])
    rows, columns = _reflected(images.shape[2], height), _reflected(images.shape[3], width)
    if height == images.shape[2] and width == images.shape[3]:
        return images
    return images[:, :, rows.to(images.device)][:, :, :, columns.to(images.device)]


def crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left part of images (B, C, H, W) that has this height and width."""
    return images[:, :, : size[0], : size[1]]


def _reflected(side: int, wanted: int) -> Tensor:
    """Which of `side` pixels each of `wanted` ones repeats."""
    if side == 1:
        return torch.zeros(wanted, dtype=torch.int64)
    period = 2 * (side - 1)
    place = torch.arange(wanted) % period
    return torch.where(place < side, place, period - place)
