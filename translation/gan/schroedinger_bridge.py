"""UNSB's discretised bridge: its times and its steps between them (Kim et al., ICLR 2024, algorithm 1)."""

import math
from itertools import accumulate

from torch import Tensor

NUM_TIMES = 5
TAU = 0.01
"""Entropy of the bridge: the variance of its noise over all of its time."""


def bridge_times(num_times: int = NUM_TIMES) -> list[float]:
    """Times of the states: 0, then 0.5 to 1 in steps that fall like 1, 1/2, 1/3 ...; num_times + 1 of them.

    A generator is asked at all but the last, where the translated image is.
    """
    sums = list(accumulate([0.0] + [1 / step for step in range(1, num_times)]))
    return [0.0] + [0.5 + 0.5 * total / sums[-1] for total in sums]


def next_state(state: Tensor, prediction: Tensor, noise: Tensor, *, index: int, tau: float = TAU) -> Tensor:
    """The state at time `index`, from the one before and the image that the generator predicted there.

    It stands between the two, with noise of a Brownian bridge that ends in the prediction.

    Args:
        state: at time index - 1; any shape.
        prediction: of the image at the bridge's end.
        noise: standard normal.
        index: of the state, from 1.
    """
    times = bridge_times()
    passed = times[index] - times[index - 1]
    share = passed / (times[-1] - times[index - 1])
    return (1 - share) * state + share * prediction + math.sqrt(passed * (1 - share) * tau) * noise
