"""The camera: where the points of a posed head fall in the picture, and how near they are."""

import math
from typing import Literal

import torch

from d2r_fast.bench.miniature.world import Shot
from d2r_fast.engine.align import similarity

Framing = Literal["aligned", "photo", "portrait"]
"""A crop by the landmarks as recognisers take it, a picture with the head somewhere in it, or one full of it."""

HEIGHTS = {"photo": 36.0, "portrait": 27.0}
"""What a picture of scale 1 shows from top to bottom, cm."""


def pose(points: torch.Tensor, shot: Shot) -> torch.Tensor:
    """Points or directions (n, 3), turned as the shot says: first yaw, then pitch, then roll."""
    return points @ _rotation(shot).to(points).T


def project(points: torch.Tensor, shot: Shot) -> torch.Tensor:
    """Posed points (n, 3) in cm -> (n, 3): x to the right and y down in cm at the head's middle, and nearness,
    distance / depth."""
    near = shot.distance / (shot.distance - points[:, 2])
    return torch.stack([points[:, 0] * near, -points[:, 1] * near, near], 1)


def frame(landmarks: torch.Tensor, shot: Shot, *, framing: Framing, size: int) -> torch.Tensor:
    """The matrix float64 (2, 3) from projected cm to pixels, whose middles lie at whole numbers.

    Args:
        landmarks: (5, 2) projected; an aligned crop puts them on the template of `size`, as well as a similarity
            can, after the shot's jitter has misplaced them.
        framing: an aligned crop, or how much of the head is in the picture.
    """
    points = landmarks.double().cpu()
    if framing == "aligned":
        span = math.dist(points[0].tolist(), points[1].tolist())
        return similarity((points + span * torch.tensor(shot.jitter))[None], size)[0]
    across, down, zoom = shot.place
    scale = zoom * size / HEIGHTS[framing]
    middle = points.mean(0)
    return torch.tensor(
        [
            [scale, 0, across * size - 0.5 - scale * float(middle[0])],
            [0, scale, down * size - 0.5 - scale * float(middle[1])],
        ],
        dtype=torch.float64,
    )


def _rotation(shot: Shot) -> torch.Tensor:
    """Roll @ pitch @ yaw, float64 (3, 3)."""
    (cy, sy), (cp, sp), (cr, sr) = (
        (math.cos(angle), math.sin(angle)) for angle in (shot.yaw, shot.pitch, shot.roll)
    )
    yaw = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
    pitch = torch.tensor([[1, 0, 0], [0, cp, -sp], [0, sp, cp]], dtype=torch.float64)
    roll = torch.tensor([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]], dtype=torch.float64)
    return roll @ pitch @ yaw
