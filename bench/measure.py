"""Timing of alternatives against each other: A-B-A-B rounds, medians, paired ratios.

Two things are compared only where they ran in turn in one process: a machine that heats up, or that somebody
else uses too, then slows both. A round runs every arm once, in the same order; an arm's time is the median over
rounds, and a ratio of two arms the median of their ratios round by round.

    timings = interleave({"eager": eager, "compiled": compiled}, num_rounds=5)
    speedup = compare(timings["eager"], timings["compiled"])
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from d2r_fast.engine.errors import RunError

Arm = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call of an arm took.

    Attributes:
        times_s: seconds of one call, one value per round.
        num_calls: calls in each round.
    """

    times_s: tuple[float, ...]
    num_calls: int

    @property
    def median_s(self) -> float:
        return float(np.median(self.times_s))

    def row(self, num_items: float = 1) -> dict[str, Any]:
        """What a result row says of it, `num_items` being what one call makes."""
        low, high = np.percentile(self.times_s, (10, 90))
        return {
            "median_s": float(f"{self.median_s:.6g}"),
            "p10_s": float(f"{low:.6g}"),
            "p90_s": float(f"{high:.6g}"),
            "num_rounds": len(self.times_s),
            "num_calls": self.num_calls,
            "per_s": float(f"{num_items / self.median_s:.6g}"),
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of one arm over that of another, by round: median, lowest and highest."""

    median: float
    low: float
    high: float


def compare(slow: Timing, fast: Timing) -> Ratio:
    """How many times as long `slow` takes as `fast`. Both must be of one `interleave`."""
    assert len(slow.times_s) == len(fast.times_s), "arms of different runs cannot be compared"
    ratios = [a / b for a, b in zip(slow.times_s, fast.times_s, strict=True)]
    return Ratio(float(np.median(ratios)), min(ratios), max(ratios))


def interleave(
    arms: Mapping[str, Arm],
    *,
    num_rounds: int = 5,
    window_s: float = 0.0,
    num_warmup: int = 1,
    most_s: float = float("inf"),
    device: str = "cpu",
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Times arms in turn.

    Args:
        arms: name -> what to time, called without arguments.
        num_rounds: rounds to run, at least 1.
        window_s: least time of an arm in a round: short arms are called as often as that takes, judged by the
            last warm-up call, and in every round as often.
        num_warmup: calls of each arm before the first round, which do not count. What compiles on its first
            call compiles here, and should have two.
        most_s: no round begins after this time, the first excepted; warm-up does not count.
        device: on CUDA a window begins and ends with an idle device.
        clock: seconds, for tests.

    Returns:
        A timing of each arm, all with equally many rounds.
    """

    def window(arm: Arm, num_calls: int) -> float:
        wait_for(device)
        begun_s = clock()
        for _ in range(num_calls):
            arm()
        wait_for(device)
        return clock() - begun_s

    calls = {}
    for name, arm in arms.items():
        warm_s = [window(arm, 1) for _ in range(num_warmup)]
        calls[name] = _calls(warm_s[-1], window_s) if warm_s else 1
    times: dict[str, list[float]] = {name: [] for name in arms}
    begun_s = clock()
    for round_number in range(num_rounds):
        if round_number and clock() - begun_s >= most_s:
            break
        for name, arm in arms.items():
            times[name].append(window(arm, calls[name]) / calls[name])
    return {name: Timing(tuple(seconds), calls[name]) for name, seconds in times.items()}


def wait_for(device: str) -> None:
    """Returns when all work given to the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _calls(one_s: float, window_s: float) -> int:
    return max(1, round(window_s / max(one_s, 1e-9)))


class NoTime(RunError):
    """What is to be measured takes longer than there is time; the message says how long."""


@dataclass
class Budget:
    """Seconds that a benchmark may take, counted from its making.

    Attributes:
        total_s: all of them; infinite where nobody set any.
        clock: seconds, for tests.
    """

    total_s: float = float("inf")
    clock: Clock = time.monotonic

    def __post_init__(self) -> None:
        self._begun_s = self.clock()

    @property
    def spent_s(self) -> float:
        return self.clock() - self._begun_s

    @property
    def left_s(self) -> float:
        return self.total_s - self.spent_s

    def share(self, parts: float) -> float:
        """What one of `parts` equal parts of the time that is left may take; 0 where none is left."""
        return max(self.left_s, 0.0) / parts
