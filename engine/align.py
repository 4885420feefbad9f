"""Align faces: the similarity from five landmarks to the face-recognition template, and the crop."""

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.kernels.warp import warp

TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
"""Eye, eye, nose, mouth corner, mouth corner (each pair from image left to right) as x, y in a 112x112 crop,
the template that ArcFace, AdaFace and their data sets share."""


def align(images: torch.Tensor, landmarks: torch.Tensor, *, size: int = 112) -> torch.Tensor:
    """Crops uint8 (N, size, size, 3) of images uint8 (N, H, W, 3) by landmarks (N, 5, 2), x and y in pixels.

    Raises:
        ValueError: landmarks of a face that coincide, or a size without a template.
    """
    return warp(images, similarity(landmarks, size).to(images.device), size)


def similarity(landmarks: torch.Tensor, size: int = 112) -> torch.Tensor:
    """Matrices float64 (N, 2, 3) that take image points to the template with the least squared error.

    landmarks (N, 5, 2). The transform turns, scales and shifts, and never mirrors: Umeyama, "Least-squares
    estimation of transformation parameters between two point patterns" (1991). In the plane such a matrix is
    [[a, -b], [b, a]], linear in a and b, so the solution has a closed form without an SVD.

    Raises:
        ValueError: landmarks of a face that coincide, or a size without a template.
    """
    source = landmarks.double()
    target = torch.from_numpy(_template(size)).to(source)
    middle, aim = source.mean(1, keepdim=True), target.mean(0)
    (x, y), (u, v) = (source - middle).unbind(-1), (target - aim).unbind(-1)
    spread = (x * x + y * y).sum(-1)
    a, b = (x * u + y * v).sum(-1) / spread, (x * v - y * u).sum(-1) / spread
    bad = (~(torch.hypot(a, b) > 1e-9)).nonzero().flatten().tolist()
    if bad:
        points = landmarks[bad[0]].tolist()
        raise ValueError(
            f"landmarks of face {bad[0]} fix no similarity: {points}; give finite, distinct points"
        )
    turn = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], -2)
    shift = aim - (turn @ middle.transpose(1, 2)).squeeze(-1)
    return torch.cat([turn, shift[:, :, None]], -1)


def _template(size: int) -> NDArray[np.float64]:
    """The template for a square crop: InsightFace scales it for multiples of 112, and for multiples of 128
    scales by size / 128 and sets it 8 (of 128) to the right."""
    template: NDArray[np.float64] = TEMPLATE_112.astype(np.float64)
    if size > 0 and size % 112 == 0:
        return template * (size / 112)
    if size > 0 and size % 128 == 0:
        return np.add(template, [8, 0]) * (size / 128)
    raise UserError(
        f"crops of {size} pixels have no landmark template: use a recogniser for 112 or 128 pixels"
    )
