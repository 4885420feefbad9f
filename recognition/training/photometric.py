"""Brightness, contrast, saturation and hue of batches of 8-bit images, as Pillow changes them.

Images are uint8 (N, 3, H, W), factors (N,) float64 on any device. Where channels are BGR the first counts as
red, as in AdaFace's training code, which swaps channels before it augments.
"""

import torch

_LUMA = (19595, 38470, 7471)
"""Pillow's weights of red, green and blue, in units of 2**-16."""

BRIGHTNESS, CONTRAST, SATURATION = range(3)
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def luma(images: torch.Tensor) -> torch.Tensor:
    """Grey of each pixel: int32 (N, 1, H, W), 0 to 255."""
    red, green, blue = images.int().unbind(1)
    weighted = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + 0x8000
    return torch.bitwise_right_shift(weighted, 16)[:, None]


def brightness(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """0 is black, 1 the image, more is brighter."""
    return _blend(torch.zeros_like(images[:, :1, :1, :1]), images, factors)


def contrast(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """0 is the image's mean grey all over, 1 the image, more has more contrast."""
    return _blend(_mean(luma(images)), images, factors)


def saturation(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """0 is grey, 1 the image, more has stronger colours."""
    return _blend(luma(images), images, factors)


def jitter(images: torch.Tensor, factors: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """All three, by factors (N, 3) of brightness, contrast and saturation, in the order ORDERS[orders]."""
    steps = torch.tensor(ORDERS, device=images.device)[orders.to(images.device)]
    factors = factors.to(images.device)
    for kind in steps.unbind(1):
        grey = luma(images)
        choice = kind.view(-1, 1, 1, 1)
        base = torch.where(choice == SATURATION, grey, torch.where(choice == CONTRAST, _mean(grey), 0))
        images = _blend(base, images, factors.gather(1, kind[:, None])[:, 0])
    return images


def hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Colours turned around the circle of hues, by parts of a full turn; value and saturation stay."""
    pixels = images.float()
    high, low = pixels.amax(1), pixels.amin(1)
    angle = _angle(pixels, high, low) + 6 * turns.to(images.device).float().view(-1, 1, 1)
    # Channel c falls off with its distance from the hue, which for red, green, blue lies at 0, 2, 4 of 6.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    position = (angle[:, None] + offsets) % 6
    share = torch.minimum(position, 4 - position).clamp_(0, 1)
    return (high[:, None] - (high - low)[:, None] * share).round_().to(torch.uint8)


def _angle(pixels: torch.Tensor, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """The hue in sixths of a turn, 0 for grey."""
    red, green, blue = pixels.unbind(1)
    spread = (high - low).clamp(min=1)
    of_green, of_blue = 2 + (blue - red) / spread, 4 + (red - green) / spread
    of_red = ((green - blue) / spread) % 6
    return torch.where(high == red, of_red, torch.where(high == green, of_green, of_blue))


def _mean(grey: torch.Tensor) -> torch.Tensor:
    """The mean of grey (N, 1, H, W), rounded half up: int (N, 1, 1, 1)."""
    num = grey[0].numel()
    return (2 * grey.sum((1, 2, 3), keepdim=True) + num) // (2 * num)


def _blend(base: torch.Tensor, images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """base + factor * (image - base), cut to 0 to 255 and rounded down, in float32 as Pillow does."""
    start = base.float()
    by = factors.to(images.device).float().view(-1, 1, 1, 1)
    return (start + by * (images.float() - start)).clamp_(0, 255).to(torch.uint8)
