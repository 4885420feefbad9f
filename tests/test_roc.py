"""The ROC curve as scikit-learn draws it, TAR at a FAR as the IJB scripts read it, the equal error rate exactly.

The golden curves were made once by scikit-learn 1.9.1's `roc_curve(labels(seed + 1, n), scores, drop_intermediate)`
under NumPy 2.4.6, on the scores of `golden_scores`; its first threshold, infinity, is left out of the file.
"""

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.roc import FAR_TARGETS, equal_error_rate, roc_curve, tar_at_far

from .protocol_data import integers, labels, normal

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "recognition_protocols.json").read_text()
)["roc"]


def golden_scores(seed: int, num_pairs: int, levels: int) -> NDArray[np.float64]:
    shift: NDArray[np.float64] = labels(seed + 1, num_pairs) * (levels // 64)
    return integers(seed, levels, num_pairs) / 16 + shift


@pytest.mark.parametrize(
    "golden", GOLDEN, ids=lambda golden: f"{golden['seed']}-{golden['drop_intermediate']}"
)
def test_the_curve_is_scikit_learns(golden: dict[str, Any]) -> None:
    scores = golden_scores(golden["seed"], golden["num_pairs"], golden["levels"])
    same = labels(golden["seed"] + 1, golden["num_pairs"])
    roc = roc_curve(scores, same, drop_intermediate=golden["drop_intermediate"])
    assert roc.far.tolist() == golden["far"]
    assert roc.tar.tolist() == golden["tar"]
    assert roc.thresholds.tolist() == [np.inf, *golden["thresholds"]]
    assert (roc.num_genuine, roc.num_impostor) == (same.sum(), (~same).sum())


def brute_points(
    scores: NDArray[np.float64], same: NDArray[np.bool_]
) -> list[tuple[float, Fraction, Fraction]]:
    """Threshold, FAR and TAR of every score, by counting."""
    thresholds = [np.inf, *sorted(set(scores.tolist()), reverse=True)]
    return [
        (
            threshold,
            Fraction(int((scores[~same] >= threshold).sum()), int((~same).sum())),
            Fraction(int((scores[same] >= threshold).sum()), int(same.sum())),
        )
        for threshold in thresholds
    ]


def cases() -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    found = []
    for seed in range(40):
        num_pairs = 5 + seed * 4
        same = labels(seed, num_pairs)
        same[:2] = (True, False)
        shift = (seed % 5) * same / 2
        coarse = np.round(4 * normal(seed + 100, num_pairs)) / 4
        found.append(((coarse if seed % 2 else normal(seed + 200, num_pairs)) + shift, same))
    return found


@pytest.mark.parametrize(("scores", "same"), cases())
def test_every_point_is_counted_and_only_corners_are_kept(
    scores: NDArray[np.float64], same: NDArray[np.bool_]
) -> None:
    points = brute_points(scores, same)
    whole = roc_curve(scores, same, drop_intermediate=False)
    assert whole.thresholds.tolist() == [threshold for threshold, _, _ in points]
    assert whole.far.tolist() == [float(far) for _, far, _ in points]
    assert whole.tar.tolist() == [float(tar) for _, _, tar in points]
    corners = roc_curve(scores, same)
    kept = np.isin(whole.thresholds, corners.thresholds)
    assert (whole.far[kept].tolist(), whole.tar[kept].tolist()) == (
        corners.far.tolist(),
        corners.tar.tolist(),
    )
    area = [float(np.trapezoid(roc.tar, roc.far)) for roc in (whole, corners)]
    assert area[0] == pytest.approx(area[1], abs=1e-12)


def brute_eer(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> Fraction:
    """Where the polygon of all points crosses FAR = 1 - TAR, in exact arithmetic."""
    points = [(far, 1 - tar) for _, far, tar in brute_points(scores, same)]
    for (far, miss), (next_far, next_miss) in pairwise(points):
        if next_far >= next_miss:
            share = (miss - far) / ((miss - far) + (next_far - next_miss))
            return far + share * (next_far - far)
    raise AssertionError("the curve ends at FAR 1, where nothing is missed")


@pytest.mark.parametrize(("scores", "same"), cases())
def test_equal_error_rate_is_the_crossing(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> None:
    wanted = float(brute_eer(scores, same))
    for drop in (True, False):
        roc = roc_curve(scores, same, drop_intermediate=drop)
        assert equal_error_rate(roc) == pytest.approx(wanted, abs=1e-14)
    mirrored = roc_curve(-scores, ~same)
    assert equal_error_rate(mirrored) == pytest.approx(wanted, abs=1e-14)


def test_equal_error_rate_of_curves_that_are_known() -> None:
    same = np.array([True] * 4 + [False] * 4)
    assert equal_error_rate(roc_curve([9, 8, 7, 6, 5, 4, 3, 2], same)) == 0
    assert equal_error_rate(roc_curve([2, 3, 4, 5, 6, 7, 8, 9], same)) == 1
    assert equal_error_rate(roc_curve([1] * 8, same)) == 0.5
    assert equal_error_rate(roc_curve([9, 8, 7, 4, 5, 3, 2, 1], same)) == 0.25
    # FAR 1/3 at a miss of 1/2, then 1/3 at 0: the crossing is on the upright line.
    assert equal_error_rate(roc_curve([9, 5, 7, 2, 1], [True, True, False, False, False])) == pytest.approx(
        1 / 3
    )


@pytest.mark.parametrize(("scores", "same"), cases())
def test_tar_is_read_at_the_nearest_point(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> None:
    roc = roc_curve(scores, same)
    kept = set(roc.thresholds.tolist())
    points = [point for point in brute_points(scores, same) if point[0] in kept]
    for target in (1e-3, 0.05, 0.1, 0.25, 0.5, 1.0):
        found = tar_at_far(roc, {"it": target})["it"]
        nearest = min(abs(float(far) - target) for _, far, _ in points)
        equally_near = [point for point in points if abs(float(point[1]) - target) == nearest]
        assert found.tar == max(float(tar) for _, _, tar in equally_near)
        assert (found.threshold, found.far, found.tar) in [
            (t, float(far), float(tar)) for t, far, tar in equally_near
        ]
        enough = Fraction(target).limit_denominator(10**6) * int((~same).sum()) >= 1
        assert found.reached == (enough and found.threshold < np.inf)


def test_far_may_be_exceeded_and_nothing_is_interpolated() -> None:
    scores = np.arange(16.0, 0, -1)
    same = np.array([True, False] * 8)
    found = tar_at_far(roc_curve(scores, same), {"above": 0.2, "between": 3 / 16, "below": 0.17})
    assert [(point.far, point.tar) for point in found.values()] == [
        (0.25, 0.375),
        (0.25, 0.375),
        (0.125, 0.25),
    ]


@pytest.mark.parametrize(
    ("num_impostor", "reached"), [(999, 2), (1000, 3), (99_999, 4), (100_000, 5), (10**6, 6)]
)
def test_rates_finer_than_one_pair_are_not_reached(num_impostor: int, reached: int) -> None:
    scores = np.append(np.linspace(0, 1, num_impostor), 2.0)
    found = tar_at_far(roc_curve(scores, np.arange(num_impostor + 1) == num_impostor))
    assert list(found) == list(FAR_TARGETS)
    assert [point.reached for point in found.values()] == [False] * (6 - reached) + [True] * reached
    assert [point.result for point in found.values()] == [None] * (6 - reached) + [1.0] * reached


def test_a_share_that_no_threshold_accepts_is_not_reached() -> None:
    """A collapsed network scores all pairs alike: nothing is accepted or everything, and 0 is no result."""
    same = np.tile([True, False], 3000)
    collapsed = tar_at_far(roc_curve(np.ones(6000), same))
    assert {point.result for point in collapsed.values()} == {None}
    scores = np.where(np.arange(6000) < 600, 1.0, np.linspace(0, 0.9, 6000))  # 300 impostors share the top
    found = tar_at_far(roc_curve(scores, same))
    assert found["1e-2"].result is None
    assert found["1e-1"].result == pytest.approx(0.1)
    single = tar_at_far(roc_curve(np.append(np.linspace(0, 1, 1000), 0.5), np.arange(1001) == 1000))
    assert single["1e-3"].result == 0, "the best impostor above all genuine pairs: a threshold, and a true 0"


def test_curve_of_a_million_ties_is_small() -> None:
    scores = np.tile(np.arange(4.0), 250_000)
    roc = roc_curve(scores, np.tile([False, True, False, True], 250_000))
    assert roc.thresholds.tolist() == [np.inf, 3, 2, 1, 0]


ALTERNATING = [True, False] * 5


@pytest.mark.parametrize(
    ("scores", "same", "line"),
    [
        ([0.5] * 10, [True] * 10, "all 10 pairs are of one person"),
        ([0.5] * 10, [0] * 10, "all 10 pairs are of two people"),
        ([0.5] * 10, ALTERNATING[:-1], r"10 pairs have labels of shape \(9,\)"),
        ([0.5] * 8 + [np.nan, np.inf], ALTERNATING, "2 of 10 scores are not finite, the first is number 8"),
        ([0.5] * 10, [1, -1] * 5, "label -1 of a pair"),
    ],
)
def test_pairs_without_a_curve_are_refused(scores: Any, same: Any, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        roc_curve(scores, same)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", [0.0, -1e-3, 1.5, float("nan")])
def test_a_target_must_be_a_rate(target: float) -> None:
    with pytest.raises(UserError, match="give one above 0 and at most 1"):
        tar_at_far(roc_curve([1, 0], [1, 0]), {"it": target})
