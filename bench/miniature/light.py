"""Light: what vertices send towards the viewer, and what stands behind the head."""

import math

import torch

from d2r_fast.bench.miniature.world import Shot

WRAP = 0.12
"""How far light reaches around a skin's edge, as a share of the head-on cosine."""


def shade(
    colour: torch.Tensor, gloss: torch.Tensor, normals: torch.Tensor, shot: Shot, *, lit: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """Linear colours (V, 3) of vertices under one far light and light from around, more of it from above.

    Args:
        colour: (V, 3) linear.
        gloss: (V,) strength of the highlight.
        normals: (V, 3) unit, posed.
        lit: (V,) share of the far light that reaches each vertex; all of it if None.
    """
    x, y, z = normals.unbind(1)
    to_x, to_y, to_z = shot.light
    facing = ((x * to_x + y * to_y + z * to_z + WRAP) / (1 + WRAP)).clamp(0, 1)
    reaching = torch.ones_like(facing) if lit is None else lit
    facing = facing * reaching
    around = 0.75 + 0.25 * y
    light = facing[:, None] * colour.new_tensor(shot.light_colour)
    light = light + around[:, None] * colour.new_tensor(shot.ambient_colour)
    half_x, half_y, half_z = _halfway(shot)
    shine = (x * half_x + y * half_y + z * half_z).clamp(0, 1)
    for _ in range(5):  # to the power of 32
        shine = shine * shine
    return colour * light + (gloss * shine * reaching)[:, None] * colour.new_tensor(shot.light_colour)


def backdrop(shot: Shot, size: int, device: torch.device) -> torch.Tensor:
    """Linear colours (size, size, 3), a gradient across the picture."""
    step = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    along = math.cos(shot.backdrop_angle) * step + math.sin(shot.backdrop_angle) * step[:, None]
    share = (along + 0.5).clamp(0, 1).float().to(device)[..., None]
    first, second = (share.new_tensor(colour) ** 2 for colour in shot.backdrop)
    return first + (second - first) * share


def _halfway(shot: Shot) -> tuple[float, float, float]:
    """Unit vector between the light and the viewer."""
    x, y, z = shot.light[0], shot.light[1], shot.light[2] + 1
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length
