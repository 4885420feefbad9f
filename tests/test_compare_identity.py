"""What a translation leaves of who is shown, on embeddings whose cosines are known."""

import numpy as np
import pytest

from d2r_fast.translation.compare.identity import compare_identity

LABELS = ["a", "a", "b", "b"]


def unit(*rows: list[float]) -> np.ndarray:
    found = np.array(rows, np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


SOURCE = unit([1, 0.0], [0.8, 0.6], [0, 1], [-0.6, 0.8])


def test_untranslated_pictures_keep_everything() -> None:
    kept = compare_identity(SOURCE, SOURCE, LABELS)
    assert kept.own == pytest.approx(1)
    assert kept.genuine_before == pytest.approx(0.8)
    assert kept.impostor_before == pytest.approx((0 + -0.6 + 0.6 + 0.0) / 4, abs=1e-6)
    assert kept.share == pytest.approx(1)
    assert kept.separation == pytest.approx(1)


def test_faces_made_alike_keep_cosines_and_lose_their_distance() -> None:
    alike = unit(*[[0.6, 0.8]] * 4)
    kept = compare_identity(SOURCE, alike, LABELS)
    cosines = [0.6, 0.96, 0.8, 0.28]
    assert kept.own == pytest.approx(np.mean(cosines))
    assert kept.genuine_after == pytest.approx(np.mean([0.96, 0.6, 0.28, 0.8]))
    assert kept.share == pytest.approx(0.66 / 0.8)
    assert kept.separation == pytest.approx((0.66 - 0.66) / 0.8, abs=1e-6)


def test_what_cannot_be_said_is_not_said() -> None:
    alone = compare_identity(SOURCE, SOURCE, ["a", "b", "c", "d"])
    assert (alone.genuine_before, alone.share, alone.separation) == (None, None, None)
    one = compare_identity(SOURCE, SOURCE, ["a"] * 4)
    assert (one.impostor_before, one.separation) == (None, None)
    with pytest.raises(ValueError, match="of 3 pictures"):
        compare_identity(SOURCE, SOURCE, LABELS[:3])
