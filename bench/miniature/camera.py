"""The camera: where the points of a posed head fall in the picture, and how near they are."""

import math
from typing import Literal

import torch

from d2r_fast.bench.miniature.world import Shot
from d2r_fast.engine.align import similarity
from d2r_fast.recognition.iresnet import IMAGE_SIZE as CROP

Framing = Literal["aligned", "photo", "portrait"]
"""A crop by the landmarks as recognisers take it, a picture with the head somewhere in it, or the crop with a margin
around it, as a generator of faces draws them."""

PHOTO_CM = 36.0
"""What a photo of scale 1 shows from top to bottom."""
PORTRAIT_CROPS = 1.3
"""A portrait is so many crops wide: a detector's crop, which lies elsewhere by some pixels, is inside."""


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
        framing: an aligned crop, a portrait, or a photo.
    """
    points = landmarks.double().cpu()
    if framing != "photo":
        span = math.dist(points[0].tolist(), points[1].tolist())
        misplaced = (points + span * torch.tensor(shot.jitter))[None]
        if framing == "aligned":
            return similarity(misplaced, size)[0]
        return _widen(similarity(misplaced)[0], size)
    across, down, zoom = shot.place
    scale = zoom * size / PHOTO_CM
    middle = points.mean(0)
    return torch.tensor(
        [
            [scale, 0, across * size - 0.5 - scale * float(middle[0])],
            [0, scale, down * size - 0.5 - scale * float(middle[1])],
        ],
        dtype=torch.float64,
    )


def _widen(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """To the pixels of a portrait, from those of the crop of 112 pixels in its middle."""
    scale = size / (CROP * PORTRAIT_CROPS)
    shift = (size - 1) / 2 - scale * (CROP - 1) / 2
    return scale * matrix + torch.tensor([[0, 0, shift], [0, 0, shift]], dtype=torch.float64)


def _rotation(shot: Shot) -> torch.Tensor:
    """Roll @ pitch @ yaw, float64 (3, 3)."""
    (cy, sy), (cp, sp), (cr, sr) = (
        (math.cos(angle), math.sin(angle)) for angle in (shot.yaw, shot.pitch, shot.roll)
    )
    yaw = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
    pitch = torch.tensor([[1, 0, 0], [0, cp, -sp], [0, sp, cp]], dtype=torch.float64)
    roll = torch.tensor([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]], dtype=torch.float64)
    return roll @ pitch @ yaw
