"""Measures of embeddings against brute force, against numbers done by hand, and on data spoilt on purpose."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.roc import equal_error_rate, roc_curve
from d2r_fast.recognition.quality import duplicates, neighbours, separation
from d2r_fast.recognition.quality.catalogue import CATALOGUE
from d2r_fast.recognition.quality.centres import (
    class_centres,
    class_sizes,
    class_sums,
    other_cosines,
    own_cosines,
    unit_rows,
)
from d2r_fast.recognition.quality.consistency import centre_similarity, identity_consistency
from d2r_fast.recognition.quality.diversity import diversity_between_images, diversity_to_centre
from d2r_fast.recognition.quality.duplicates import find_duplicates, uniqueness
from d2r_fast.recognition.quality.measure import Scale, measure
from d2r_fast.recognition.quality.neighbours import choose_queries, neighbour_consistency
from d2r_fast.recognition.quality.separation import Separation, separate
from d2r_fast.recognition.quality.spectrum import effective_rank, second_moment, vendi_score, within_moment

Rows, Labels = NDArray[np.float32], NDArray[np.int64]


def people(
    num: int = 30, images: int = 8, *, width: int = 32, spread: float = 0.12, seed: int = 0
) -> tuple[Rows, Labels]:
    """Embeddings of distinct people: a random centre each, and Gaussian variety around it."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((num, width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = np.repeat(centres, images, axis=0) + spread * rng.standard_normal((num * images, width))
    return rows.astype(np.float32), np.repeat(np.arange(num), images)


@pytest.fixture(scope="module")
def uneven() -> tuple[Rows, Labels]:
    """Unit rows of overlapping classes of 1 to 23 images, in no order."""
    rng = np.random.default_rng(4)
    sizes = np.array([1, 2, 2, 3, 5, 8, 8, 12, 23, 1])
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = rng.standard_normal((len(sizes), 12))[labels] + 0.9 * rng.standard_normal((len(labels), 12))
    order = rng.permutation(len(labels))
    return unit_rows(rows[order].astype(np.float32)), labels[order]


def split_pairs(units: Rows, labels: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Genuine and impostor cosines, pair by pair."""
    found: tuple[list[float], list[float]] = ([], [])
    for first, second in itertools.combinations(range(len(units)), 2):
        cosine = float(units[first].astype(np.float64) @ units[second])
        found[int(labels[first] != labels[second])].append(cosine)
    return np.array(found[0]), np.array(found[1])


def separate_all(units: Rows, labels: Labels, max_pairs: int = 10**9, seed: int = 0) -> Separation:
    return separate(units, labels, second_moment(units), max_pairs=max_pairs, seed=seed)


def test_separation_is_that_of_all_pairs(
    uneven: tuple[Rows, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    units, labels = uneven
    genuine, impostor = split_pairs(units, labels)
    spread = genuine.var() + impostor.var()
    gap = genuine.mean() - impostor.mean()
    roc = roc_curve(np.r_[genuine, impostor], np.r_[np.ones(len(genuine)), np.zeros(len(impostor))])
    for tile in (4096, 5):  # one tile, and many with remainders
        monkeypatch.setattr(separation, "TILE", tile)
        found = separate_all(units, labels)
        assert (found.num_genuine, found.num_impostor) == (len(genuine), len(impostor))
        assert found.num_sampled == len(impostor)
        assert found.genuine_mean == pytest.approx(genuine.mean(), abs=1e-6)
        assert found.genuine_std == pytest.approx(genuine.std(), abs=1e-6)
        assert found.impostor_mean == pytest.approx(impostor.mean(), abs=1e-6)
        assert found.impostor_std == pytest.approx(impostor.std(), abs=1e-6)
        assert found.fdr == pytest.approx(gap**2 / spread, rel=1e-5)
        assert found.d_prime == pytest.approx(gap / np.sqrt(spread / 2), rel=1e-5)
        assert found.eer == pytest.approx(equal_error_rate(roc), abs=2 / len(genuine))
        allowed = np.sort(impostor)[::-1][int(0.01 * len(impostor))]
        assert found.fmr100 == pytest.approx((genuine <= allowed).mean(), abs=1.5 / len(genuine))


def test_too_few_impostors_for_a_rate_are_no_rate(uneven: tuple[Rows, Labels]) -> None:
    units, labels = uneven
    few = np.isin(labels, [3, 4])
    found = separate_all(units[few], labels[few] - 3)
    assert found.num_impostor == 15
    assert found.fmr100 is None
    assert found.fmr1000 is None


def test_a_sample_of_impostors_leaves_the_moments_exact() -> None:
    rows, labels = people(60, 10, spread=0.3)
    units = unit_rows(rows)
    whole, part = separate_all(units, labels), separate_all(units, labels, max_pairs=20_000)
    assert part.num_impostor == whole.num_impostor == 60 * 59 // 2 * 100
    assert 15_000 < part.num_sampled < 25_000
    assert part.impostor_mean == pytest.approx(whole.impostor_mean, abs=1e-12)
    assert part.impostor_std == pytest.approx(whole.impostor_std, abs=1e-12)
    assert part.genuine_mean == whole.genuine_mean
    assert 0.01 < whole.eer < 0.4
    assert part.eer == pytest.approx(whole.eer, abs=0.01)
    assert separate_all(units, labels, max_pairs=20_000) == part
    assert separate_all(units, labels, max_pairs=20_000, seed=1).eer != part.eer


def test_consistency_and_diversity_by_hand() -> None:
    """Class 0: two unit vectors 60 degrees apart, 30 from their centre. Class 1: one image. Class 2: three alike."""
    root = np.sqrt(3) / 2
    units = np.array([[1, 0], [0.5, root], [0, 1], [0, -1], [0, -1], [0, -1]], np.float32)
    labels = np.array([0, 0, 1, 2, 2, 2])
    sums, sizes = class_sums(units, labels), class_sizes(labels)
    own = own_cosines(units, labels, class_centres(sums))
    np.testing.assert_allclose(own, [root, root, 1, 1, 1, 1], atol=1e-6)
    assert identity_consistency(own, labels, radius=0.9) == 0.5  # of classes 0 and 2
    assert identity_consistency(own, labels, radius=0.8) == 1.0
    mean, std = centre_similarity(own, labels)
    assert mean == pytest.approx((2 * root + 3) / 5, abs=1e-6)
    assert std == pytest.approx(np.std([root, root, 1, 1, 1]), abs=1e-6)
    assert diversity_to_centre(own, labels) == pytest.approx(1 - mean, abs=1e-6)
    assert diversity_between_images(sums, sizes) == pytest.approx((0.5 + 0) / 2, abs=1e-6)
    others = other_cosines(units, labels, sums)
    np.testing.assert_allclose(others, [0.5, 0.5, np.nan, 1, 1, 1], atol=1e-6)


def test_others_leave_the_image_itself_out(uneven: tuple[Rows, Labels]) -> None:
    units, labels = uneven
    found = other_cosines(units, labels, class_sums(units, labels))
    for index, label in enumerate(labels):
        rest = (labels == label) & (np.arange(len(labels)) != index)
        if not rest.any():
            assert np.isnan(found[index])
            continue
        centre = units[rest].astype(np.float64).sum(axis=0)
        assert found[index] == pytest.approx(units[index] @ centre / np.linalg.norm(centre), abs=1e-5)


def test_single_images_alone_have_no_consistency() -> None:
    units, labels = np.eye(3, dtype=np.float32), np.arange(3)
    own = own_cosines(units, labels, class_centres(class_sums(units, labels)))
    assert np.isnan(identity_consistency(own, labels, radius=0.3))
    assert np.isnan(centre_similarity(own, labels)[0])
    assert np.isnan(diversity_to_centre(own, labels))
    assert np.isnan(diversity_between_images(class_sums(units, labels), class_sizes(labels)))
    assert not len(choose_queries(labels, num_queries=5, seed=0))
    with pytest.raises(UserError, match="3 identities of at most 1 images"):
        measure(units, labels, Scale())


def test_classes_that_cancel_out_are_refused() -> None:
    units = np.array([[1, 0], [-1, 0], [0, 1], [0, 1]], np.float32)
    with pytest.raises(UserError, match="identity 0 cancel out"):
        measure(units, np.array([0, 0, 1, 1]), Scale())


@pytest.mark.parametrize("radius", [0.1, 0.3, 0.6, 0.95])
def test_uniqueness_is_the_greedy_filter(radius: float) -> None:
    centres = unit_rows(np.random.default_rng(1).standard_normal((2500, 6)).astype(np.float32))
    kept: list[int] = []
    for index in range(len(centres)):
        if not kept or (centres[kept] @ centres[index]).max() < radius:
            kept.append(index)
    assert uniqueness(centres, radius=radius) == len(kept) / 2500


def test_duplicates_are_all_pairs_above_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    centres = unit_rows(np.random.default_rng(2).standard_normal((97, 8)).astype(np.float32))
    centres[90] = centres[3]
    cosines = np.triu(centres @ centres.T, 1)
    first, second = np.nonzero(cosines > 0.7)
    best = np.sort(cosines[np.triu_indices(97, 1)])[::-1][:20]
    for tile in (4096, 10):
        monkeypatch.setattr(duplicates, "TILE", tile)
        found = find_duplicates(centres, threshold=0.7)
        assert found.num_pairs == len(first) > 1
        assert found.num_identities == len(set(first) | set(second))
        np.testing.assert_allclose([pair.cosine for pair in found.most_alike], best, atol=1e-6)
        assert (found.most_alike[0].first, found.most_alike[0].second) == (3, 90)
        for pair in found.most_alike:
            assert pair.first < pair.second
            assert cosines[pair.first, pair.second] == pytest.approx(pair.cosine, abs=1e-6)


@pytest.mark.parametrize("k", [1, 4, 10])
def test_neighbours_are_those_of_a_full_sort(
    uneven: tuple[Rows, Labels], monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    units, labels = uneven
    queries = choose_queries(labels, num_queries=1000, seed=0)
    assert set(labels[queries]) == {1, 2, 3, 4, 5, 6, 7, 8}  # 0 and 9 have one image
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    shares = []
    for query in queries:
        wanted = min(k, (labels == labels[query]).sum() - 1)
        nearest = np.argsort(-cosines[query])[:wanted]
        shares.append((labels[nearest] == labels[query]).mean())
    for name, size in (("QUERIES", 7), ("COLUMNS", 11)):
        assert neighbour_consistency(units, labels, queries, k=k) == pytest.approx(np.mean(shares))
        monkeypatch.setattr(neighbours, name, size)
    assert neighbour_consistency(units, labels, queries, k=k) == pytest.approx(np.mean(shares))


def test_queries_are_a_seeded_choice() -> None:
    labels = np.repeat(np.arange(50), 4)
    chosen = choose_queries(labels, num_queries=30, seed=3)
    assert len(set(chosen.tolist())) == 30
    np.testing.assert_array_equal(chosen, choose_queries(labels, num_queries=30, seed=3))
    assert set(chosen.tolist()) != set(choose_queries(labels, num_queries=30, seed=4).tolist())


def test_effective_rank_of_known_spectra() -> None:
    axes = np.concatenate([np.eye(7), np.eye(7), np.eye(7)])
    moment = axes.T @ axes
    assert effective_rank(moment, energy=21.0) == pytest.approx(7)
    assert vendi_score(moment) == pytest.approx(7)
    line = np.outer(np.ones(5), [0.6, 0.8])
    assert effective_rank(line.T @ line, energy=5.0) == pytest.approx(1)
    assert effective_rank(np.zeros((4, 4)), energy=1.0) == 0
    rows = np.diag([4.0, 1.0])  # singular values 4 and 1: shares 0.8 and 0.2
    assert effective_rank(rows.T @ rows, energy=17.0) == pytest.approx(0.8**-0.8 * 0.2**-0.2)


def test_effective_rank_is_that_of_the_singular_values(uneven: tuple[Rows, Labels]) -> None:
    units, labels = uneven
    moment = second_moment(units)
    np.testing.assert_allclose(moment, units.T.astype(np.float64) @ units, atol=1e-9)
    shares = np.linalg.svd(units.astype(np.float64), compute_uv=False)
    shares /= shares.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(moment, energy=float(np.trace(moment))) == pytest.approx(expected, rel=1e-6)
    kernel = np.linalg.eigvalsh(units.astype(np.float64) @ units.T / len(units))
    kernel = kernel[kernel > 1e-9] / kernel[kernel > 1e-9].sum()
    assert vendi_score(moment) == pytest.approx(np.exp(-(kernel * np.log(kernel)).sum()), rel=1e-4)
    means = np.stack([units[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    rest = units - means[labels]
    within = within_moment(moment, class_sums(units, labels), class_sizes(labels))
    np.testing.assert_allclose(within, rest.T @ rest, atol=1e-4)


def test_measures_ignore_lengths_and_order() -> None:
    rows, labels = people(20, 6, spread=0.25)
    before = measure(rows, labels, Scale()).values
    rng = np.random.default_rng(9)
    order = rng.permutation(len(rows))
    lengths = rng.uniform(0.1, 40, (len(rows), 1)).astype(np.float32)
    after = measure((rows * lengths)[order], labels[order], Scale()).values
    assert set(before) < set(CATALOGUE)
    for name in before.keys() - {"norm_mean", "norm_std"}:
        assert after[name] == pytest.approx(before[name], rel=1e-4, abs=1e-6), name
    assert after["norm_mean"] != pytest.approx(before["norm_mean"])


def shuffled_labels(rows: Rows, labels: Labels) -> tuple[Rows, Labels]:
    rng = np.random.default_rng(7)
    wrong = rng.choice(len(labels), len(labels) // 10, replace=False)
    labels = labels.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, labels.max() + 1, len(wrong))) % (labels.max() + 1)
    return rows, labels


def doubled_identities(rows: Rows, labels: Labels) -> tuple[Rows, Labels]:
    """Every image of each second person a second time under a new label, with a little noise."""
    twins = labels % 2 == 0
    noise = 0.01 * np.random.default_rng(8).standard_normal(rows[twins].shape)
    return np.concatenate([rows, rows[twins] + noise]).astype(np.float32), np.r_[
        labels, labels.max() + 1 + labels[twins] // 2
    ]


def removed_variety(rows: Rows, labels: Labels) -> tuple[Rows, Labels]:
    first = rows[np.searchsorted(labels, labels)]
    return (first + 0.02 * (rows - first)).astype(np.float32), labels


MOVES = {
    shuffled_labels: {
        "consistent_variety": -1, "intrinsic_quality": -1, "identity_consistency": -1,
        "consistency_with_others": -1, "neighbour_consistency": -1, "genuine_mean": -1, "fdr": -1, "d_prime": -1,
        "eer": +1, "fmr100": +1, "diversity_between_images": +1, "num_images": 0, "effective_rank": 0,
    },
    doubled_identities: {
        "consistent_variety": -1, "intrinsic_quality": -1, "uniqueness": -1, "duplicate_pairs": +1,
        "duplicate_identities": +1, "neighbour_consistency": -1, "eer": +1, "impostor_mean": +1, "fdr": -1,
        "d_prime": -1, "identity_consistency": 0, "diversity_between_images": 0,
    },
    removed_variety: {
        "consistent_variety": -1, "intrinsic_quality": -1, "diversity_to_centre": -1,
        "diversity_between_images": -1, "effective_rank": -1, "vendi": -1, "genuine_mean": +1, "d_prime": +1,
        "neighbour_consistency": 0, "duplicate_pairs": 0,
    },
}  # fmt: skip
"""Which way a measure must move when a set is spoilt; 0: within 3 % of where it was."""


@pytest.mark.parametrize("spoil", MOVES, ids=lambda spoil: spoil.__name__)
def test_spoiling_moves_its_measures(spoil: object) -> None:
    rows, labels = people(40, 12, width=64, spread=0.1)
    assert callable(spoil)
    clean, spoilt = measure(rows, labels, Scale()).values, measure(*spoil(rows, labels), Scale()).values
    for name, way in MOVES[spoil].items():
        before, after = clean[name], spoilt[name]
        assert before is not None
        assert after is not None
        if way:
            assert way * (after - before) > 0.01 * max(abs(before), 0.1), f"{name}: {before} -> {after}"
        else:
            assert after == pytest.approx(before, rel=0.03, abs=0.01), f"{name}: {before} -> {after}"


def test_duplicates_of_doubled_identities_are_found_to_the_last() -> None:
    found = measure(*doubled_identities(*people(40, 12, width=64, spread=0.1)), Scale())
    assert found.values["duplicate_pairs"] == 20
    assert found.values["duplicate_identities"] == pytest.approx(40 / 60)
    assert {(pair.first, pair.second) for pair in found.duplicates.most_alike} == {
        (2 * twin, 40 + twin) for twin in range(20)
    }


@pytest.mark.slow
def test_four_hundred_thousand_images() -> None:
    """20,000 identities x 20 x 512 in under 3 minutes and 5 GB, on 2 cores."""
    import resource
    import time

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400_000, 512, generator=generator)
    rows += 1.2 * torch.randn(20_000, 512, generator=generator).repeat_interleave(20, dim=0)
    started_s = time.monotonic()
    found = measure(rows.numpy(), np.repeat(np.arange(20_000), 20), Scale())
    assert time.monotonic() - started_s < 180
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 5 * 2**20
    assert found.counts["genuine_pairs"] == 20_000 * 190
    assert found.counts["impostor_pairs"] == 400_000 * 399_999 // 2 - 20_000 * 190
    assert found.values["genuine_mean"] == pytest.approx(1.44 / 2.44, abs=0.003)
    assert found.values["impostor_std"] == pytest.approx(512**-0.5, rel=0.01)
