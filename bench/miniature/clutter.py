"""What stands behind people: a room out of focus, of shapes in any colour."""

import math

import torch
from torch.nn.functional import avg_pool2d, pad

from d2r_fast.bench.miniature.world import Draws, mix

MOST_SHAPES = 14
SALT = 1 << 20
"""Added to a picture's number, so that its shapes are drawn apart from all else."""


def clutter(seed: int, identity: int, image: int, size: int, device: torch.device) -> torch.Tensor:
    """Linear colours float32 (size, size, 3): boxes and discs before each other and before a gradient, blurred."""
    draws = Draws(seed, identity, SALT + image)
    step = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size
    x, y = step, step[:, None]
    wall = draws.colour()
    picture = torch.ones(size, size, 3, device=device) * y.new_tensor(wall)
    shaded = draws.between(0.4, 1.0)
    picture = picture * (shaded + (1 - shaded) * y)[..., None]
    for _ in range(draws.index(MOST_SHAPES + 1)):
        colour, angle = mix(draws.colour(), wall, draws.between(0, 0.6)), draws.between(0, math.pi)
        middle, half = _pair(draws, 0, 1), _pair(draws, 0.03, 0.3)
        along = (x - middle[0]) * math.cos(angle) + (y - middle[1]) * math.sin(angle)
        across = (y - middle[1]) * math.cos(angle) - (x - middle[0]) * math.sin(angle)
        away = (along / half[0]).abs(), (across / half[1]).abs()
        inside = torch.maximum(*away) < 1 if draws.index(2) else away[0].square() + away[1].square() < 1
        picture = torch.where(inside[..., None], picture.new_tensor(colour), picture)
    return _blur(picture.square(), round(draws.between(0.004, 0.05) * size))


def _pair(draws: Draws, low: float, high: float) -> tuple[float, float]:
    return draws.between(low, high), draws.between(low, high)


def _blur(picture: torch.Tensor, radius: int) -> torch.Tensor:
    """A box twice, which is a tent: near enough to what a lens does to what is out of focus."""
    planes, side = picture.permute(2, 0, 1)[None], 2 * radius + 1
    for window, margin in 2 * (((side, 1), (0, 0, radius, radius)), ((1, side), (radius, radius, 0, 0))):
        planes = avg_pool2d(pad(planes, margin, mode="replicate"), window, stride=1)
    return planes[0].permute(1, 2, 0)
