"""Ten-fold accuracy: InsightFace's and AdaFace's own results, a plain loop, ties, uneven folds, bad input.

The golden numbers were made once by running, on the data of `protocol_data.py` with the seeds that stand beside them,

    x = sklearn.preprocessing.normalize(embeddings.astype(dtype))
    adaface/evaluate_utils.py                    evaluate(x, same)                    -> accuracies, thresholds
    insightface/.../eval/verification.py         calculate_roc(arange(0, 4, 0.01), x[0::2], x[1::2], same)
                                                 -> the same accuracies
    "ties": calculate_roc of both on zeros and tied_vectors(seed, n), labels(seed + 1, n)
    "val":  insightface calculate_val(arange(0, 4, 0.25), x[0::2], x[1::2], same, far)

under NumPy 2.4.6, scikit-learn 1.9.1 and SciPy 1.17.1 (modules that are imported and not used were stand-ins).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2r_fast.bench.plain_folds import plain_distances, plain_ten_fold, scripted_ten_fold
from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.folds import (
    ROWS_AT_ONCE,
    Folds,
    pair_distances,
    ten_fold,
    unit_distances,
    val_at_far,
)

from .protocol_data import integers, labels, normal, pair_embeddings, tied_vectors

GOLDEN: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "golden" / "recognition_protocols.json").read_text()
)


def check_golden(folds: Folds, golden: dict[str, Any]) -> None:
    assert folds.accuracies.tolist() == golden["accuracies"]
    assert folds.thresholds.tolist() == golden["thresholds"]
    assert folds.accuracy == np.mean(golden["accuracies"])
    assert folds.std == np.std(golden["accuracies"])


@pytest.mark.parametrize(
    "golden", GOLDEN["folds"], ids=lambda golden: f"{golden['num_pairs']}-{golden['dtype']}"
)
def test_accuracies_and_thresholds_are_insightfaces_and_adafaces(golden: dict[str, Any]) -> None:
    embeddings, same = pair_embeddings(golden["seed"], golden["num_pairs"], golden["dim"], golden["noise"])
    distances = pair_distances(embeddings.astype(golden["dtype"]))
    assert distances.dtype == golden["dtype"]
    np.testing.assert_allclose(distances[:5], golden["distances"], rtol=8 * np.finfo(distances.dtype).eps)
    check_golden(ten_fold(distances, same), golden)


@pytest.mark.parametrize("golden", GOLDEN["ties"], ids=lambda golden: str(golden["num_pairs"]))
def test_a_distance_at_a_threshold_is_judged_as_they_judge_it(golden: dict[str, Any]) -> None:
    vectors = tied_vectors(golden["seed"], golden["num_pairs"])
    distances = np.sum(np.square(vectors), axis=1)
    assert np.isin(distances, np.arange(0, 4, 0.01)).mean() > 0.1
    check_golden(ten_fold(distances, labels(golden["seed"] + 1, golden["num_pairs"])), golden)


@pytest.mark.parametrize("num_pairs", [10, 11, 19, 20, 123, 1009])
@pytest.mark.parametrize("num_folds", [2, 10])
@pytest.mark.parametrize("spread", [4, 12])
def test_every_list_gives_what_a_plain_loop_gives(num_pairs: int, num_folds: int, spread: int) -> None:
    same = labels(num_pairs, num_pairs)
    same[:2] = (True, False)
    for seed in range(3):
        # Distances on the thresholds, between them, and beyond the last.
        distances = integers(seed, 111 * spread, num_pairs) / 300
        folds = ten_fold(distances, same, num_folds=num_folds)
        assert (folds.accuracies.tolist(), folds.thresholds.tolist()) == plain_ten_fold(
            distances, same, num_folds=num_folds
        )


def test_float32_distances_are_compared_with_the_thresholds_themselves() -> None:
    threshold = np.arange(0, 4, 0.01)[29]
    assert float(np.float32(0.29)) < threshold  # but is equal to it where the threshold is rounded too
    folds = ten_fold(np.array([0.29, 0.295] * 10, np.float32), [True, False] * 10)
    assert (folds.accuracy, folds.thresholds.tolist()) == (1, [threshold] * 10)


def test_the_first_of_equally_good_thresholds_is_taken() -> None:
    folds = ten_fold([0.5, 2.0] * 10, [1, 0] * 10)
    assert folds.thresholds.tolist() == [np.arange(0, 4, 0.01)[51]] * 10
    assert (folds.accuracy, folds.std) == (1.0, 0.0)


def test_distances_are_of_unit_vectors_and_of_each_pair_alone() -> None:
    embeddings = normal(1, 300, 24)
    distances = pair_distances(embeddings)
    cosines = [
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(embeddings[0::2], embeddings[1::2], strict=True)
    ]
    np.testing.assert_allclose(distances, 2 - 2 * np.array(cosines), atol=1e-12)
    np.testing.assert_array_equal(pair_distances(embeddings[100:102]), distances[50:51])
    np.testing.assert_array_equal(pair_distances(4 * embeddings), distances)
    assert pair_distances(np.ones((2, 3), np.float16)).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_of_unit_vectors_are_numpys_to_the_bit(dtype: type) -> None:
    embeddings, same = pair_embeddings(4, ROWS_AT_ONCE + 37, 512, 1.0)
    unit = embeddings.astype(dtype) / np.linalg.norm(embeddings.astype(dtype), axis=1, keepdims=True)
    distances = unit_distances(unit)
    assert distances.dtype == dtype
    np.testing.assert_array_equal(distances, plain_distances(unit))
    folds = ten_fold(distances, same)
    assert (folds.accuracies.tolist(), folds.thresholds.tolist()) == scripted_ten_fold(unit, same)


@pytest.mark.parametrize("golden", GOLDEN["val"], ids=lambda golden: str(golden["far"]))
def test_val_is_insightfaces_where_scipy_takes_its_grid(golden: dict[str, Any]) -> None:
    embeddings, same = pair_embeddings(golden["seed"], 3000, 4, 0.8)
    found = val_at_far(pair_distances(embeddings), same, far=golden["far"], step=0.25)
    assert found.reached
    assert (found.val, found.std, found.far) == pytest.approx(
        (golden["val"], golden["std"], golden["mean_far"]), rel=1e-12
    )


def test_val_takes_the_threshold_by_a_straight_line_between_the_grids() -> None:
    # Impostors of a fold at 0.05, 0.15, ... 0.95: with step 0.1 a threshold of t accepts the share t of them.
    impostors = np.tile(np.arange(10) / 10 + 0.05, 10)
    genuine = np.tile([0.2, 0.21, 0.23, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1], 10)
    distances = np.stack((impostors, genuine), axis=1).reshape(-1)
    found = val_at_far(distances, np.tile([False, True], 100), far=0.22, step=0.1)
    assert found.reached
    assert (found.val, found.std) == pytest.approx((0.2, 0))  # the threshold is 0.22
    assert found.far == pytest.approx(0.2)


def test_val_refuses_a_pair_at_the_very_threshold() -> None:
    # Half of the impostors are below 1, a threshold of the grid and a distance of half of the genuine pairs.
    distances = np.tile([0.9, 0.5, 1.1, 1.0], 20)
    found = val_at_far(distances, np.tile([False, True], 40), far=0.5, step=0.25)
    assert (found.val, found.far) == (0.5, 0.5)


def test_a_rate_that_no_threshold_has_is_not_reached_and_not_zero() -> None:
    distances, same = np.tile([0.5, 3.999], 50), np.tile([True, False], 50)
    missed = val_at_far(distances, same, far=0.1, step=0.01)  # thresholds end at 3.99
    assert (missed.reached, missed.val, missed.std, missed.far) == (False, None, None, None)
    distances[1::2] = 1.5
    assert not val_at_far(distances, same, far=1e-3).reached  # 45 impostor pairs show no thousandth
    assert val_at_far(distances, same, far=1 / 45).val == 1


ALTERNATING = [True, False] * 10


@pytest.mark.parametrize(
    ("distances", "same", "line"),
    [
        (
            [1.0] * 9,
            [True] * 5 + [False] * 4,
            "9 pairs cannot be cut into 10 folds: give a list of at least 10",
        ),
        ([1.0] * 20, [True] * 20, "all 20 pairs are of one person: .* pairs of both kinds"),
        ([1.0] * 20, [False] * 20, "all 20 pairs are of two people"),
        ([1.0] * 20, ALTERNATING[:-1], r"20 pairs have labels of shape \(19,\): give one label per pair"),
        ([1.0] * 20, [2, 0] * 10, "label 2 of a pair: labels are 1 for one person and 0 for two"),
        ([1.0] * 19 + [np.nan], ALTERNATING, "1 of 20 distances are not finite, the first is number 19"),
        ([[1.0]] * 20, ALTERNATING, r"distances have shape \(20, 1\): give one number per pair"),
    ],
)
def test_a_list_that_cannot_be_judged_is_refused_in_one_line(distances: Any, same: Any, line: str) -> None:
    for function in (ten_fold, val_at_far):
        with pytest.raises(UserError, match=line) as caught:
            function(distances, same)
        assert "\n" not in str(caught.value)


def test_a_fold_of_one_kind_has_no_val() -> None:
    assert not val_at_far(np.arange(20) / 10, [True] * 10 + [False] * 10, far=0.5).reached


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (0.0, "embedding 5 is zero"),
        (np.nan, "embedding 5 is not finite"),
        (np.inf, "embedding 5 is not finite"),
    ],
)
def test_an_embedding_without_direction_is_named(row: float, line: str) -> None:
    embeddings = normal(1, 20, 8)
    embeddings[5] = row
    with pytest.raises(UserError, match=line):
        pair_distances(embeddings)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (4,)])
def test_what_is_not_pairs_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="are no pairs"):
        pair_distances(np.ones(shape))
