"""The comparison's ruler: what the feature space sees, and that its distance is an unbiased one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from d2r_fast.translation.compare.features import NUM_BANDS, NUM_FILTERS, NUM_LEVELS, Space, measure_features
from d2r_fast.translation.compare.mmd import halves, squared_mmd

from .fakebench import face

Pictures = NDArray[np.uint8]


def faces(first: int, num: int) -> Pictures:
    return np.stack([face(first + number, 0, size=64) for number in range(num)])


def spoiled(pictures: Pictures, strength: float) -> Pictures:
    """Warmer and noisier."""
    noise = np.random.default_rng(0).normal(size=pictures.shape)
    cast = np.array([1.0, 0.0, -1.0])
    return np.clip(pictures + strength * (noise + cast), 0, 255).astype(np.uint8)


def naive_mmd(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Gretton et al.'s U-statistic, pair by pair."""

    def k(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def within(rows: NDArray[np.float64]) -> float:
        n = len(rows)
        return sum(k(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    across = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * across


def test_the_distance_is_the_unbiased_one() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(7, 5)), random.normal(0.5, 2, size=(9, 5))
    assert squared_mmd(x, y) == pytest.approx(naive_mmd(x, y), rel=1e-12)
    assert squared_mmd(x, y) == pytest.approx(squared_mmd(y, x), rel=1e-12)
    with pytest.raises(ValueError, match="two rows"):
        squared_mmd(x[:1], y)
    with pytest.raises(ValueError, match="equal width"):
        squared_mmd(x, y[:, :4])


def test_samples_of_one_distribution_come_to_nothing_on_average() -> None:
    rows = np.random.default_rng(1).normal(size=(400, 6))
    found = halves(rows, seed=0, num_splits=40)
    assert abs(np.mean(found)) < 0.02
    assert min(found) < 0 < max(found), "a biased estimate is never negative"
    assert halves(rows, seed=0, num_splits=2) == found[:2]


def test_rows_of_a_group_stay_together() -> None:
    middles = np.random.default_rng(2).normal(0, 3, size=(4, 5))
    rows = np.repeat(middles, 50, axis=0) + np.random.default_rng(3).normal(size=(200, 5))
    groups = [str(number // 50) for number in range(200)]
    assert min(halves(rows, seed=0, groups=groups)) > 10 * max(halves(rows, seed=0))


def test_features_of_a_picture_are_its_own() -> None:
    pictures = faces(0, 5)
    whole = measure_features(pictures, side=64)
    assert whole.shape == (5, 2 * NUM_LEVELS * NUM_FILTERS + 3 * 7 + 3 * NUM_BANDS)
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(measure_features(pictures[3:4], side=64)[0], whole[3], atol=1e-5)
    assert measure_features(pictures, side=48).shape == whole.shape


def test_flat_and_tiny_pictures_have_finite_features() -> None:
    for value in (0, 255):
        assert np.isfinite(measure_features(np.full((2, 32, 32, 3), value, np.uint8), side=32)).all()


def test_known_features() -> None:
    """A wave along x of 8 periods has its energy in one ring of the light, and none in the colours."""
    wave = np.sin(np.arange(64) / 64 * 2 * np.pi * 8)
    picture = np.broadcast_to((127.5 + 100 * wave)[None, :, None], (64, 64, 3)).astype(np.uint8)
    found = measure_features(picture[None], side=64)[0]
    bands = found[-3 * NUM_BANDS :].reshape(3, NUM_BANDS)
    edges = np.logspace(0, np.log10(32), NUM_BANDS + 1)
    assert bands[0].argmax() == np.searchsorted(edges, 8.0, side="right") - 1
    assert bands[1:].max() < bands[0].max() - 4
    means = found[2 * NUM_LEVELS * NUM_FILTERS :][:3]
    np.testing.assert_allclose(means, [127.0 / 255 * 3**0.5, 0, 0], atol=0.01)


def test_the_distance_grows_with_what_is_done_and_not_with_who_is_shown() -> None:
    ours, others = faces(0, 60), faces(1000, 60)
    target = spoiled(faces(2000, 60), 20)
    space = Space.over(ours, target, side=64)
    real = space(target)
    distances = [squared_mmd(space(spoiled(ours, strength)), real) for strength in (0, 8, 14, 20)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 20 * abs(distances[-1])
    assert abs(squared_mmd(space(ours), space(others))) < 0.1 * distances[0]


def test_the_space_is_standardised_over_both_sets_alike() -> None:
    ours, theirs = faces(0, 10), spoiled(faces(50, 30), 10)
    space = Space.over(ours, theirs, side=64)
    means = [space(pictures).mean(0) for pictures in (ours, theirs)]
    np.testing.assert_allclose(means[0] + means[1], 0, atol=1e-6)
    squares = [np.square(space(pictures)).mean(0) for pictures in (ours, theirs)]
    np.testing.assert_allclose(squares[0] + squares[1], 2, atol=1e-6)
