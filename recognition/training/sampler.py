"""Which images each batch of an epoch holds: a pure function of (seed, epoch), whoever reads it.

    order = epoch_order(images, sampling="plain", seed=0, epoch=3, num_ranks=2, rank=0, batch_size=128)

The order is drawn for the whole epoch and cut into global batches, of which every rank takes its part: two
ranks with batches of 128 see together what one rank with batches of 256 sees.
"""

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.kernels.noise import identity_key
from d2r_fast.recognition.training.config import Sampling
from d2r_fast.recognition.training.training_set import TrainingSet


def epoch_order(
    training_set: TrainingSet,
    *,
    sampling: Sampling,
    seed: int,
    epoch: int,
    num_ranks: int,
    rank: int,
    batch_size: int,
) -> NDArray[np.int64]:
    """Indices of the images of each of a rank's batches: int64 (num_batches, batch_size).

    plain: every image once, in random order. balanced: as many images, every class equally often (up to one);
    the images of a class take turns, in an order drawn anew for each turn. What does not fill a last global
    batch of num_ranks * batch_size is left out; the next epoch leaves out other images.

    Raises:
        UserError: not one batch can be filled.
    """
    assert 0 <= rank < num_ranks, "no such rank"
    at_once = num_ranks * batch_size
    num_batches = len(training_set.labels) // at_once
    if num_batches == 0:
        raise UserError(
            f"training set {training_set.name} has {len(training_set.labels):,} images, and a step takes {at_once:,} "
            f"({num_ranks} x batch size {batch_size}): give a smaller batch size"
        )
    draw = _draw_balanced if sampling == "balanced" else _draw_plain
    order = draw(training_set, _random(seed, epoch))[: num_batches * at_once]
    return np.ascontiguousarray(order.reshape(num_batches, num_ranks, batch_size)[:, rank])


def _random(seed: int, epoch: int) -> np.random.Philox:
    """A stream of words; numpy promises these to stay as they are, but not what its permutations make of them."""
    return np.random.Philox(key=identity_key(seed, f"order of epoch {epoch}") & (2**64 - 1))


def _shuffle(num: int, random: np.random.Philox) -> NDArray[np.int64]:
    return np.argsort(random.random_raw(num), kind="stable")


def _draw_plain(training_set: TrainingSet, random: np.random.Philox) -> NDArray[np.int64]:
    return _shuffle(len(training_set.labels), random)


def _draw_balanced(training_set: TrainingSet, random: np.random.Philox) -> NDArray[np.int64]:
    """Rounds, each with one image of every class in random order; the last round is cut short."""
    labels, num_classes = training_set.labels, training_set.num_classes
    num_rounds = -(-len(labels) // num_classes)
    images = np.empty((num_rounds, num_classes), np.int64)
    taken = np.zeros(num_classes, np.int64)
    rows = np.arange(len(labels))
    while len(rows):
        # One turn of every class that has not filled its rounds: its images in a new order.
        rows = rows[np.lexsort((random.random_raw(len(rows)), labels[rows]))]
        classes = labels[rows]
        turn = np.bincount(classes, minlength=num_classes)
        position = np.arange(len(rows)) - (np.cumsum(turn) - turn)[classes] + taken[classes]
        fits = position < num_rounds
        images[position[fits], classes[fits]] = rows[fits]
        taken += turn
        rows = rows[taken[classes] < num_rounds]
    rounds = np.argsort(random.random_raw(images.size).reshape(images.shape), axis=1, kind="stable")
    return np.take_along_axis(images, rounds, axis=1).ravel()[: len(labels)]
