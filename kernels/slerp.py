"""Spherical linear interpolation of batches of vectors (Shoemake, SIGGRAPH 1985; Digi2Real, equations 3, 4).

The textbook weights sin((1-t)w)/sin(w) and sin(tw)/sin(w) lose all their digits where w nears 0 or pi. Here
the same point is cos(tw) a + sin(tw) u, with u the unit vector at right angles to a towards b. It needs no
division by sin(w) and no threshold on w, and its length is 1 by construction.
"""

import torch

_NO_DIRECTION = 1e-12
"""Below this sine of the angle, rounding decides where b - (a.b)a points, and u is chosen by rule instead."""


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The points at fraction t of the shorter great-circle arc from a to b.

    Only the directions of a and b count: both are normalised first, so embeddings whose length is off by
    rounding give points of length 1. Where b is a (w = 0) the result is a. Where b is -a every great circle
    is as short, and the one through the coordinate axis most nearly at right angles to a (the first such)
    is taken, so the result is always the same.

    Args:
        a: (N, D) floating, finite, not zero, D >= 2.
        b: (N, D), likewise.
        t: (N,) in [0, 1]; 0 is a, 1 is b.

    Returns:
        (N, D) unit vectors in the dtype of a, computed in float64.

    Raises:
        ValueError: shapes that do not fit, t outside [0, 1], a vector without a direction.
    """
    if a.ndim != 2 or a.shape != b.shape or t.shape != a.shape[:1] or a.shape[1] < 2:
        shapes = [tuple(x.shape) for x in (a, b, t)]
        raise ValueError(f"slerp of shapes {shapes}: expected (N, D), (N, D) and (N,) with D >= 2")
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError("slerp parameter t must lie in [0, 1]")
    start, end = _unit(a), _unit(b)
    cosine = (start * end).sum(1, keepdim=True)
    across = _across(start, end)
    sine = torch.linalg.vector_norm(across, dim=1, keepdim=True)
    direction = torch.where(sine > _NO_DIRECTION, across / sine, _any_perpendicular(start))
    angle = t.double().unsqueeze(1) * torch.atan2(sine, cosine)
    return (angle.cos() * start + angle.sin() * direction).to(a.dtype)


def _unit(x: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    if not bool((norm.isfinite() & (norm > 0)).all()):
        raise ValueError("slerp needs vectors with a direction: one is zero or not finite")
    return wide.div(norm)


def _across(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """The part of end at right angles to start; twice, as one pass near -start leaves rounding along it."""
    for _ in range(2):
        end = end - (start * end).sum(1, keepdim=True) * start
    return end


def _any_perpendicular(start: torch.Tensor) -> torch.Tensor:
    """A unit vector at right angles to start, from the coordinate axis that it leans on least."""
    axis = torch.zeros_like(start).scatter_(1, start.abs().argmin(1, keepdim=True), 1.0)
    across = _across(start, axis)
    return across.div(torch.linalg.vector_norm(across, dim=1, keepdim=True))
