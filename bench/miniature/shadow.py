"""Shadows that a head casts on itself: which of its points a far light sees.

The head is drawn as the light sees it, without perspective, and a point is lit as far as nothing there is nearer to the
light than it (Williams, "Casting curved shadows on curved surfaces", SIGGRAPH 1978), averaged over the map's places
around it (Reeves et al., SIGGRAPH 1987), which makes edges soft.
"""

import torch
from torch.nn.functional import grid_sample, unfold

from d2r_fast.bench.miniature.rasteriser import rasterise

SIDE, SPAN = 160, 44.0
"""Places of the map along each side, and what they cover, cm."""
BIAS = 0.45
"""How much nearer another point has to be, cm: less, and skin that the light grazes would shade itself."""
SOFT = 3
"""Places along each side that are averaged."""
FAR = 2000.0
"""Added to how near points are to the light, cm: the rasteriser takes what is positive, and interpolates between far
points as without perspective."""


def lit(points: torch.Tensor, triangles: torch.Tensor, light: tuple[float, float, float]) -> torch.Tensor:
    """Share of the light that reaches each point: float32 (V,), 0 to 1.

    Args:
        points: (V, 3) posed, cm.
        triangles: (T, 3) int64.
        light: unit vector towards it.
    """
    towards = points.new_tensor(light)
    across, up = _around(towards)
    place = torch.stack([points @ across, -(points @ up)], 1) / SPAN
    near = points @ towards + FAR
    seen = torch.cat([(place + 0.5) * SIDE, near[:, None]], 1)[None]
    nearest = rasterise(seen, triangles, near[None, :, None], height=SIDE, width=SIDE).values[..., 0]
    around = unfold(nearest[:, None], SOFT, padding=SOFT // 2)
    sampled = grid_sample(
        around.view(1, SOFT * SOFT, SIDE, SIDE), (2 * place)[None, None], mode="nearest", align_corners=False
    )[0, :, 0]
    return (sampled <= near + BIAS).float().mean(0)


def _around(towards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors across the light's view, and up in it."""
    x, _, z = towards.tolist()
    length = max((x * x + z * z) ** 0.5, 1e-6)
    across = towards.new_tensor([z / length, 0.0, -x / length])
    return across, torch.linalg.cross(towards, across)
