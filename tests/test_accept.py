"""Which drawn images are kept."""

import numpy as np
import pytest

from d2r_fast.engine.accept import judge
from d2r_fast.engine.detect import Faces


def faces(count: int, landmarks: float = 10.0) -> Faces:
    points = np.arange(10, dtype=np.float32).reshape(5, 2) * landmarks
    return Faces(np.zeros((count, 4), np.float32), np.ones(count, np.float32), np.stack([points] * 3)[:count])


@pytest.mark.parametrize(
    ("found", "finite", "reason"),
    [
        (faces(1), True, None),
        (faces(0), True, "no face"),
        (faces(2), True, "several faces"),
        (faces(1), False, "not finite"),
        (faces(0), False, "not finite"),
        (faces(1, 0.0), True, "landmarks coincide"),
        (faces(1, np.nan), True, "landmarks coincide"),
    ],
)
def test_exactly_one_alignable_face_is_kept(found: Faces, finite: bool, reason: str | None) -> None:
    assert judge(found, finite=finite) == reason
