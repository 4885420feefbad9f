"""Changes of shape, sharpness and grain: batches uint8 (N, 3, S, S) in and out, draws (N, k) uniform in (0, 1).

Draws lie on the CPU, so that they say the same to every device.
"""

import math
from typing import Literal

import torch
from torch.nn.functional import grid_sample

from d2r_fast.kernels import noise as random
from d2r_fast.recognition.training.resample import INTERPOLATIONS, down_up, separable

CROP_TRIES = 10
CROP_AREA = (0.2, 1.0)
CROP_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
LOW_RES = (0.2, 1.0)

# The DigiFace-1M paper prints how often these happen and not how strong they are. Chosen here: strong enough
# to see at 112 pixels, too weak to hide who it is.
SCALE, ROTATION_DEGREES, SHIFT, ASPECT = (0.95, 1.05), (-5.0, 5.0), (-0.03, 0.03), (0.9, 1.1)
BLUR_SIGMA = (0.5, 2.0)
MOTION_LENGTH = (3.0, 9.0)
NOISE_SIGMA = (2.0, 12.0)

_MOTION_TAPS = 9


def span(draw: torch.Tensor, limits: tuple[float, float]) -> torch.Tensor:
    """Uniform numbers between the limits from uniform numbers in (0, 1)."""
    return limits[0] + (limits[1] - limits[0]) * draw


def crop(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """A random rectangle stays in place, and all around it turns black. Takes 4 draws for each of CROP_TRIES.

    The rectangle is torchvision's RandomResizedCrop's: part of the area and ratio of the sides (log-uniform)
    are drawn until it fits, at most 10 times; then it is the whole image.
    """
    side = images.shape[-1]
    box = crop_boxes(draws, side).to(images.device)
    place = torch.arange(side, device=images.device)
    rows = (place >= box[:, 0:1]) & (place < box[:, 0:1] + box[:, 2:3])
    columns = (place >= box[:, 1:2]) & (place < box[:, 1:2] + box[:, 3:4])
    return images * (rows[:, None, :, None] & columns[:, None, None, :])


def crop_boxes(draws: torch.Tensor, side: int) -> torch.Tensor:
    """Top, left, height and width: int64 (N, 4), of draws (N, 4 * CROP_TRIES)."""
    area, ratio, top, left = draws.view(len(draws), CROP_TRIES, 4).unbind(-1)
    area = side * side * span(area, CROP_AREA)
    ratio = span(ratio, CROP_LOG_RATIO).exp()
    height, width = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    boxes = torch.stack(
        [(top * (side - height + 1)).floor(), (left * (side - width + 1)).floor(), height, width], -1
    )
    fits = (height <= side) & (width <= side) & (height > 0) & (width > 0)
    first = boxes[torch.arange(len(draws)), fits.int().argmax(1)]
    whole = torch.tensor([0.0, 0.0, side, side], dtype=boxes.dtype)
    return torch.where(fits.any(1)[:, None], first, whole).long()


def low_res(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Down to a part of the side and up again, each with an interpolation of its own. Takes 3 draws."""
    sizes = (span(draws[:, 0], LOW_RES) * images.shape[-1]).long()
    kinds = (draws[:, 1:3] * len(INTERPOLATIONS)).long()
    return down_up(images, *(part.to(images.device) for part in (sizes, kinds[:, 0], kinds[:, 1])))


def warp(images: torch.Tensor, draws: torch.Tensor, *, aspect: float) -> torch.Tensor:
    """Scaled, rotated, shifted, and stretched with probability `aspect`; black outside. Takes 6 draws."""
    scale, angle = span(draws[:, 0], SCALE), torch.deg2rad(span(draws[:, 1], ROTATION_DEGREES))
    stretch = torch.where(draws[:, 4] < aspect, span(draws[:, 5], ASPECT), 1.0).sqrt()
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # From the new image back to the old one.
    back = torch.stack([cos / stretch, sin / stretch, -sin * stretch, cos * stretch], -1).view(-1, 2, 2)
    shift = 2 * span(draws[:, 2:4], SHIFT)
    return _sampled(images, back, -(back * shift[:, None]).sum(-1), edge="zeros")


def blur(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Blurred by a Gaussian, whose weights add up to 1 at the edges too. Takes 1 draw."""
    place = torch.arange(images.shape[-1], dtype=torch.float64)
    sigma = span(draws[:, 0], BLUR_SIGMA)[:, None, None]
    far = (place[:, None] - place).abs() / sigma
    # Beyond 6 sigma it is nothing, and numbers that underflow slow a CPU down tenfold.
    weights = torch.where(far < 6, torch.exp(-(far**2) / 2), 0.0)
    return separable(images, (weights / weights.sum(-1, keepdim=True)).to(images.device))


def motion_blur(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The mean of the image along a short line in any direction. Takes 2 draws."""
    length, angle = span(draws[:, 0], MOTION_LENGTH), math.pi * draws[:, 1]
    reach = length * 2 / images.shape[-1]
    ends = torch.stack([angle.cos() * reach, angle.sin() * reach], -1)
    same = torch.eye(2, dtype=torch.float64).expand(len(images), 2, 2)
    total = torch.zeros(images.shape, dtype=torch.int32, device=images.device)
    for tap in range(_MOTION_TAPS):
        total += _sampled(images, same, (tap / (_MOTION_TAPS - 1) - 0.5) * ends, edge="border")
    return total.add_(_MOTION_TAPS // 2).div_(_MOTION_TAPS, rounding_mode="floor").to(torch.uint8)


def noise(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Gaussian noise on every channel of every pixel. Takes 2 draws; the second names the noise."""
    keys = torch.zeros(len(images), 4, dtype=torch.int64)
    keys[:, 0] = (draws[:, 1] * 2**52).long()
    sigma = span(draws[:, 0], NOISE_SIGMA).to(images.device).float()
    grain = random.normal(keys.to(images.device), images.shape[1:])
    return (images + grain * sigma.view(-1, 1, 1, 1)).round_().clamp_(0, 255).to(torch.uint8)


def _sampled(
    images: torch.Tensor, linear: torch.Tensor, shift: torch.Tensor, *, edge: Literal["zeros", "border"]
) -> torch.Tensor:
    """Images interpolated where `linear` (N, 2, 2) and `shift` (N, 2) send each pixel.

    Places x, y run from -1 at the first pixel's centre to 1 at the last one's. The sums are written out: they must
    not depend on the batch, which a matrix product's may.
    """
    place = torch.linspace(-1, 1, images.shape[-1], dtype=torch.float64)
    grid = linear[:, None, :, 0] * place[:, None] + shift[:, None]
    grid = grid[:, None] + (linear[:, None, :, 1] * place[:, None])[:, :, None]
    where = grid.float().to(images.device)
    moved = grid_sample(images.float(), where, padding_mode=edge, align_corners=True)
    return moved.round_().clamp_(0, 255).to(torch.uint8)
