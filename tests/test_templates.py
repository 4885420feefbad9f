"""IJB templates: CVLface's own TARs, a plain loop over templates, switches, bad input.

The golden numbers were made once on `ijb_data(**GOLDEN["data"])` of `protocol_data.py` by CVLface's
evaluations/ijbbc/evaluate.py: `evaluate(embeddings, detector_scores, templates, media, same, first, second)` for
(norm, detector) = (yes, yes), (yes, no) and (no, yes), and for (no, no), which it does not run, by its
`image2template_feature` and `verification` and scikit-learn's `roc_curve` in the same way. NumPy 2.4.6,
scikit-learn 1.9.1.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation import templates as module
from d2r_fast.recognition.evaluation.roc import roc_curve, tar_at_far
from d2r_fast.recognition.evaluation.templates import Templates, aggregate, score_templates

from .protocol_data import IjbData, ijb_data, normal

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "recognition_protocols.json").read_text()
)["ijb"]
SMALL = {"num_templates": 60, "num_images": 400, "num_people": 20, "dim": 24, "noise": 2.0}


@pytest.fixture(scope="module")
def data() -> IjbData:
    return ijb_data(**GOLDEN["data"])


@pytest.fixture(scope="module")
def small() -> IjbData:
    return ijb_data(3000, **SMALL)


def combine(data: IjbData, *, norm: bool = True, detector: bool = True) -> Templates:
    scores = data.detector_scores if detector else None
    return aggregate(data.embeddings, data.templates, data.media, norm=norm, detector_scores=scores)


@pytest.mark.parametrize(
    "golden", GOLDEN["runs"], ids=lambda golden: f"N{golden['norm']:d}D{golden['det']:d}"
)
def test_tars_are_cvlfaces(data: IjbData, golden: dict[str, Any]) -> None:
    templates = combine(data, norm=golden["norm"], detector=golden["det"])
    scores = score_templates(templates, data.first, data.second)
    found = tar_at_far(roc_curve(scores, data.same))
    assert {name: point.tar for name, point in found.items()} == golden["tar"]
    for name, point in found.items():
        assert point.reached
        assert point.threshold == pytest.approx(golden["thresholds"][name], abs=1e-12)


def plain_features(data: IjbData, *, norm: bool, detector: bool) -> NDArray[np.float64]:
    """One template after another, in float64."""
    features = []
    for template in sorted(set(data.templates.tolist())):
        total = np.zeros(data.embeddings.shape[1])
        for medium in set(data.media[data.templates == template].tolist()):
            images = []
            for row in np.flatnonzero((data.templates == template) & (data.media == medium)):
                image = data.embeddings[row].astype(np.float64)
                image = image if norm else image / np.linalg.norm(image)
                images.append(image * (float(data.detector_scores[row]) if detector else 1))
            total += np.mean(images, axis=0)
        features.append(total / np.linalg.norm(total))
    return np.array(features)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("detector", [True, False])
def test_a_template_is_the_sum_of_its_media(small: IjbData, norm: bool, detector: bool) -> None:
    templates = combine(small, norm=norm, detector=detector)
    features = plain_features(small, norm=norm, detector=detector)
    np.testing.assert_array_equal(templates.ids, 3 * np.arange(60) + 3)
    np.testing.assert_allclose(templates.features, features, atol=2e-6)
    scores = score_templates(templates, small.first, small.second)
    wanted = features @ features.T
    np.testing.assert_allclose(scores, wanted[small.first // 3 - 1, small.second // 3 - 1], atol=4e-6)


def test_switches_change_what_they_say() -> None:
    embeddings = np.array([[3, 0], [0, 1], [0, 1]], np.float32)
    ids, scores = np.array([7, 7, 7]), np.array([1, 0.5, 0.5], np.float32)

    def feature(media: list[int], norm: bool, weights: NDArray[np.float32] | None) -> NDArray[np.float64]:
        found = aggregate(embeddings, ids, np.array(media), norm=norm, detector_scores=weights)
        return found.features[0] / found.features[0, 1]

    np.testing.assert_allclose(feature([1, 2, 2], True, None), [3, 1])
    np.testing.assert_allclose(feature([1, 2, 3], True, None), [1.5, 1])
    np.testing.assert_allclose(feature([1, 2, 2], False, None), [1, 1])
    np.testing.assert_allclose(feature([1, 2, 2], True, scores), [6, 1])
    np.testing.assert_allclose(feature([1, 2, 2], False, scores), [2, 1])


def test_neither_chunks_nor_threads_nor_order_change_a_bit(
    small: IjbData, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = combine(small)
    scores = score_templates(templates, small.first, small.second)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 5)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 7)
    monkeypatch.setattr(module, "PAIRS_OF_TASK", 30)
    monkeypatch.setattr(module, "_num_cores", lambda: 5)
    again = combine(small)
    np.testing.assert_array_equal(again.features, templates.features)
    order = np.random.default_rng(0).permutation(len(small.first))
    shuffled = score_templates(again, small.second[order], small.first[order])
    np.testing.assert_array_equal(shuffled, scores[order])


def test_equal_templates_have_equal_scores(small: IjbData) -> None:
    twice = np.concatenate((small.embeddings, small.embeddings))
    media = np.concatenate((small.media, small.media))
    ids = np.concatenate((small.templates, small.templates + 10_000))
    templates = aggregate(twice, ids, media, norm=True, detector_scores=None)
    first = score_templates(templates, small.first, small.second)
    np.testing.assert_array_equal(score_templates(templates, small.first + 10_000, small.second), first)


def test_float64_is_kept_where_it_is_given(small: IjbData) -> None:
    exact = plain_features(small, norm=True, detector=True)
    wide = aggregate(
        small.embeddings, small.templates, small.media, norm=True,
        detector_scores=small.detector_scores.astype(np.float64),
    )  # fmt: skip
    np.testing.assert_allclose(wide.features, exact, atol=1e-13)
    assert np.abs(combine(small).features - exact).max() > 1e-9


def test_pairs_of_templates_without_images_are_named(small: IjbData) -> None:
    templates = combine(small)
    for number in (1, 0, 10_000):
        with pytest.raises(UserError, match=rf"template {number} of a pair has no image \(2 pairs in all\)"):
            score_templates(templates, np.array([3, number, number]), np.array([6, 6, 6]))
    for first, second in ((np.array([3]), np.array([3, 6])), (np.array([], int), np.array([], int))):
        with pytest.raises(UserError, match="give two equally long lists"):
            score_templates(templates, first, second)


IDS = np.array([1, 1, 2, 2])
GOOD: dict[str, Any] = {
    "embeddings": normal(1, 4, 3).astype(np.float32), "template_ids": IDS, "media_ids": IDS,
    "detector_scores": np.ones(4, np.float32),
}  # fmt: skip


def with_row(row: int, value: float) -> NDArray[np.float32]:
    embeddings: NDArray[np.float32] = GOOD["embeddings"].copy()
    embeddings[row] = value
    return embeddings


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"template_ids": IDS[:3]},
            r"4 embeddings have template numbers of shape \(3,\): give one for every image",
        ),
        ({"media_ids": np.append(IDS, 1)}, r"4 embeddings have media numbers of shape \(5,\)"),
        ({"detector_scores": np.ones(3)}, r"4 embeddings have detector scores of shape \(3,\)"),
        ({"detector_scores": np.array([1, 1, np.nan, 1])}, "detector score of image 2 is not finite"),
        ({"detector_scores": np.array([1.0, 1, 0, 0])}, "images of template 2 add up to zero"),
        ({"template_ids": IDS.astype(float)}, "template numbers are float64: they must be integers"),
        ({"embeddings": with_row(3, np.nan)}, "embedding 3 is not finite"),
        ({"embeddings": with_row(2, 0)}, "embedding 2 is zero"),
        ({"embeddings": np.zeros((0, 3))}, r"embeddings of shape \(0, 3\): give \(N, D\)"),
        ({"embeddings": np.zeros(4)}, r"embeddings of shape \(4,\): give \(N, D\)"),
    ],
)
@pytest.mark.parametrize("norm", [True, False])
def test_bad_lists_are_refused_in_one_line(changed: dict[str, Any], line: str, norm: bool) -> None:
    aggregate(**GOOD, norm=norm)
    with pytest.raises(UserError, match=line) as caught:
        aggregate(**GOOD | changed, norm=norm)
    assert "\n" not in str(caught.value)


def test_a_bad_row_is_named_by_its_place_in_the_list() -> None:
    embeddings = normal(1, 6, 3).astype(np.float32)
    embeddings[1] = 0
    with pytest.raises(UserError, match="embedding 1 is zero"):
        aggregate(embeddings, np.array([9, 8, 7, 6, 5, 4]), np.arange(6), norm=True, detector_scores=None)
