"""Accept or reject a drawn image: it must hold exactly one face, and one that can be aligned."""

import numpy as np

from d2r_fast.engine.detect import Faces


def judge(faces: Faces, *, finite: bool) -> str | None:
    """Why an image cannot be used, or None if it can.

    Args:
        faces: what the detector found in it.
        finite: whether the networks gave numbers; an image of NaN is black and must not be written.
    """
    if not finite:
        return "not finite"
    if len(faces) != 1:
        return "no face" if len(faces) == 0 else "several faces"
    return None if can_align(faces) else "landmarks coincide"


def can_align(faces: Faces) -> bool:
    """Whether the first face's landmarks fix a similarity: finite, and a pixel apart at least."""
    landmarks = faces.landmarks[0]
    return bool(np.isfinite(landmarks).all() and np.ptp(landmarks, axis=0).max() >= 1)
