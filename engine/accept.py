"""Accept or reject a drawn image: it must hold exactly one face."""

from d2r_fast.engine.detect import Faces


def judge(faces: Faces, *, finite: bool) -> str | None:
    """Why an image cannot be used, or None if it can.

    Args:
        faces: what the detector found in it.
        finite: whether the networks gave numbers; an image of NaN is black and must not be written.
    """
    if not finite:
        return "not finite"
    num_faces = len(faces.scores)
    if num_faces == 1:
        return None
    return "no face" if num_faces == 0 else "several faces"
