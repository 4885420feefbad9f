"""Plans: prototypes, mixing, choosing and spreading."""

import numpy as np
import pytest
from scipy.stats import beta, kstest

from d2r_fast.engine.plan import Job, choose, make_latents, mix, normalise, prototype, spread
from d2r_fast.kernels.noise import identity_key

KEY = identity_key(0, "someone")


def vectors(num: int, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)


def test_prototype_is_the_normalised_mean_of_normalised_embeddings() -> None:
    embeddings = vectors(5) * np.array([[1], [2], [30], [4], [5]], np.float32)
    unit = embeddings.astype(np.float64) / np.linalg.norm(
        embeddings.astype(np.float64), axis=1, keepdims=True
    )
    expected = unit.sum(axis=0) / np.linalg.norm(unit.sum(axis=0))
    found = prototype(embeddings)
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_opposite_embeddings_have_no_prototype() -> None:
    row = vectors(1)
    assert prototype(np.concatenate([row, -row])) is None


def test_zero_rows_stay_zero() -> None:
    assert not normalise(np.zeros((2, 8), np.float32)).any()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 8.0])
def test_t_follows_beta(alpha: float) -> None:
    drawn = np.concatenate([mix(5, identity_key(3, str(name)), alpha) for name in range(800)])
    assert ((drawn > 0) & (drawn < 1)).all()
    assert kstest(drawn, beta(alpha, alpha).cdf).pvalue > 1e-3


def test_t_of_a_latent_does_not_depend_on_how_many_there_are() -> None:
    np.testing.assert_array_equal(mix(7, KEY, 2.0)[:3], mix(3, KEY, 2.0))


def test_latents_start_at_the_prototype_and_end_at_the_embedding() -> None:
    embeddings = vectors(3)
    centre = prototype(vectors(5, seed=1))
    assert centre is not None
    ends = make_latents(centre, embeddings, np.array([0.0, 1.0, 0.5]))
    np.testing.assert_allclose(ends[0], centre, atol=1e-6)
    np.testing.assert_allclose(ends[1], normalise(embeddings)[1], atol=1e-6)
    halves = ends[2] @ centre, ends[2] @ normalise(embeddings)[2]
    assert halves[0] == pytest.approx(halves[1], abs=1e-6)
    assert ends.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(ends, axis=1), 1, atol=1e-6)


def test_choice_is_a_permutation_of_its_own_for_each_identity() -> None:
    assert sorted(choose(72, KEY)) == list(range(72))
    assert choose(72, KEY) == choose(72, KEY)
    assert choose(72, KEY) != choose(72, identity_key(0, "someone else"))
    assert choose(72, KEY) != choose(72, identity_key(1, "someone"))


def test_choice_is_uniform() -> None:
    firsts = [choose(6, identity_key(0, str(name)))[0] for name in range(3000)]
    counts = np.bincount(firsts, minlength=6)
    assert abs(counts - 500).max() < 5 * np.sqrt(500 * 5 / 6)


@pytest.mark.parametrize(
    ("images", "latents", "per_latent", "counts"),
    [
        (20, 5, None, [4, 4, 4, 4, 4]),
        (7, 5, None, [2, 1, 2, 1, 1]),
        (3, 5, None, [1, 1, 0, 1, 0]),
        (20, 4, None, [5, 5, 5, 5]),
        (20, 5, 5, [5, 5, 5, 5, 0]),
    ],
)
def test_images_are_spread_evenly(
    images: int, latents: int, per_latent: int | None, counts: list[int]
) -> None:
    found = spread(images, latents, per_latent)
    assert found == sorted(found)
    assert np.bincount(found, minlength=latents).tolist() == counts


def test_keys_name_label_and_image() -> None:
    job = Job(12, "Zoë 7", KEY, 3, 0)
    assert job.key == "000012_003"
    assert (job.again().attempt, job.again().key) == (1, job.key)
