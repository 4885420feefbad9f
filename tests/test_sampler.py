"""The order of an epoch: what it holds, what it depends on, how ranks share it."""

import numpy as np
import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.training.sampler import epoch_order

from .fakesets import Fake, fake

EVEN = fake(*np.repeat(np.arange(10), 10).tolist())
LONG_TAIL = fake(*np.repeat(np.arange(6), [1, 2, 3, 5, 8, 37]).tolist())

GOLDEN_PLAIN = [22, 45, 29, 36, 23, 89, 38, 66, 57, 93]
GOLDEN_BALANCED = [0, 8, 22, 13, 4, 2, 18, 45, 10, 1]


def order(images: Fake = EVEN, **changes) -> np.ndarray:
    wanted = {
        "sampling": "plain",
        "seed": 0,
        "epoch": 0,
        "num_ranks": 1,
        "rank": 0,
        "batch_size": 8,
    } | changes
    return epoch_order(images, **wanted)


@pytest.mark.parametrize("sampling", ["plain", "balanced"])
def test_shape_and_dtype(sampling: str):
    found = order(sampling=sampling)
    assert found.shape == (12, 8)
    assert found.dtype == np.int64
    assert found.flags.c_contiguous


def test_plain_takes_every_image_once():
    assert sorted(order(batch_size=10).ravel()) == list(range(100))
    assert len(set(order(batch_size=7).ravel().tolist())) == 98


def test_what_is_left_out_changes_from_epoch_to_epoch():
    left = [
        frozenset(range(100)) - set(order(epoch=epoch, batch_size=7).ravel().tolist()) for epoch in range(5)
    ]
    assert all(len(some) == 2 for some in left)
    assert len(set(left)) > 1


def test_it_is_a_pure_function_of_seed_and_epoch():
    assert np.array_equal(order(), order())
    others = [order(), order(seed=1), order(epoch=1), order(seed=1, epoch=1)]
    assert len({other.tobytes() for other in others}) == 4


def test_the_numbers_stay_as_they_are():
    """Runs resume with a newer numpy: these numbers must not move."""
    assert order(batch_size=10)[0].tolist() == GOLDEN_PLAIN
    assert order(LONG_TAIL, sampling="balanced", batch_size=10)[0].tolist() == GOLDEN_BALANCED


@pytest.mark.parametrize("sampling", ["plain", "balanced"])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_each_global_batch(sampling: str, num_ranks: int):
    whole = order(LONG_TAIL, sampling=sampling, batch_size=4 * num_ranks)
    parts = [
        order(LONG_TAIL, sampling=sampling, batch_size=4, num_ranks=num_ranks, rank=rank)
        for rank in range(num_ranks)
    ]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("sampling", ["plain", "balanced"])
def test_the_batch_size_cuts_one_and_the_same_order(sampling: str):
    small, large = (order(LONG_TAIL, sampling=sampling, batch_size=n).ravel() for n in (4, 14))
    assert np.array_equal(small[: len(large)], large[: len(small)])


def test_plain_is_shuffled_without_a_trend():
    """Every image comes about as often early as late, and neighbours do not stay together."""
    places = np.stack([np.argsort(order(batch_size=100, seed=seed)[0]) for seed in range(400)])
    assert np.abs(places.mean(0) - 49.5).max() < 6
    assert np.abs(np.diff(places, axis=1)).mean() == pytest.approx(101 / 3, rel=0.02)


@pytest.mark.parametrize("images", [EVEN, LONG_TAIL, fake(*np.repeat(np.arange(3), [1, 1, 50]).tolist())])
def test_balanced_takes_every_class_equally_often(images: Fake):
    found = order(images, sampling="balanced", batch_size=1).ravel()
    assert len(found) == len(images.labels)
    per_class = np.bincount(images.labels[found], minlength=images.num_classes)
    assert per_class.max() - per_class.min() <= 1
    per_image = np.bincount(found, minlength=len(images.labels))
    for label in range(images.num_classes):
        counts = per_image[images.labels == label]
        assert counts.max() - counts.min() <= 1, "the images of a class take turns"


def test_balanced_goes_round_the_classes():
    """Each round of as many images as classes has one image of each."""
    found = LONG_TAIL.labels[order(LONG_TAIL, sampling="balanced", batch_size=6)]
    assert np.array_equal(np.sort(found, axis=1), np.tile(np.arange(6), (9, 1)))
    assert len({tuple(row) for row in found.tolist()}) > 1


def test_balanced_does_not_need_sorted_labels():
    shuffled = fake(*np.random.default_rng(0).permutation(LONG_TAIL.labels).tolist())
    found = order(shuffled, sampling="balanced", batch_size=6)
    assert np.array_equal(np.sort(shuffled.labels[found], axis=1), np.tile(np.arange(6), (9, 1)))


def test_too_few_images_for_a_batch():
    with pytest.raises(UserError, match=r"fake has 100 images, and a step takes 128 \(2 x batch size 64\)"):
        order(num_ranks=2, batch_size=64)
