"""Rounds, medians, ratios and budgets, on arms that take whatever time a fake clock says."""

import json

import pytest

from d2r_fast.bench.measure import Budget, Timing, compare, interleave


class FakeClock:
    """Stands still until an arm moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now_s

    def arm(self, name: str, *seconds: float) -> "FakeArm":
        return FakeArm(self, name, seconds)


class FakeArm:
    """Takes its seconds one after another, the last of them for ever."""

    def __init__(self, clock: FakeClock, name: str, seconds: tuple[float, ...]) -> None:
        self.clock, self.name, self.seconds = clock, name, list(seconds)

    def __call__(self) -> None:
        self.clock.calls.append(self.name)
        self.clock.now_s += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


def test_arms_take_turns_and_warm_up_is_not_timed() -> None:
    clock = FakeClock()
    timings = interleave(
        {"a": clock.arm("a", 100, 1, 2, 6), "b": clock.arm("b", 100, 4)}, num_rounds=3, clock=clock
    )
    assert "".join(clock.calls) == "ab" + "ababab"
    assert timings["a"].times_s == (1, 2, 6)
    assert timings["a"].median_s == 2
    assert timings["b"].times_s == (4, 4, 4)


def test_a_ratio_is_the_median_of_ratios_within_rounds() -> None:
    """A machine that slows down fourfold half-way changes no ratio."""
    clock = FakeClock()
    arms = {"slow": clock.arm("slow", 6, 6, 24, 24), "fast": clock.arm("fast", 2, 3, 8, 8)}
    timings = interleave(arms, num_rounds=4, num_warmup=0, clock=clock)
    ratio = compare(timings["slow"], timings["fast"])
    assert (ratio.median, ratio.low, ratio.high) == (3, 2, 3)


def test_short_arms_fill_their_window() -> None:
    clock = FakeClock()
    arms = {"short": clock.arm("short", 0.1), "long": clock.arm("long", 3)}
    timings = interleave(arms, num_rounds=2, window_s=1, num_warmup=1, clock=clock)
    assert timings["short"].num_calls == 10
    assert timings["long"].num_calls == 1
    assert timings["short"].median_s == pytest.approx(0.1)
    assert clock.calls.count("short") == 1 + 2 * 10


def test_no_round_begins_after_the_time_is_up_but_one_is_always_whole() -> None:
    clock = FakeClock()
    arms = {"a": clock.arm("a", 3), "b": clock.arm("b", 3)}
    assert len(interleave(arms, num_rounds=9, most_s=10, clock=clock)["b"].times_s) == 2
    assert len(interleave(arms, num_rounds=9, most_s=0, clock=clock)["b"].times_s) == 1


def test_arms_of_different_runs_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="different runs"):
        compare(Timing((1.0, 2.0), 1), Timing((1.0,), 1))


def test_a_row_is_json_and_says_median_spread_and_rate() -> None:
    row = Timing(tuple(float(value) for value in range(1, 12)), 7).row(num_items=3)
    assert json.loads(json.dumps(row, allow_nan=False)) == {
        "median_s": 6, "p10_s": 2, "p90_s": 10, "num_rounds": 11, "num_calls": 7, "per_s": 0.5,
    }  # fmt: skip


def test_a_budget_is_shared_out() -> None:
    clock = FakeClock()
    budget = Budget(100, clock)
    clock.now_s = 40
    assert (budget.spent_s, budget.left_s, budget.share(3)) == (40, 60, 20)
    clock.now_s = 140
    assert (budget.left_s, budget.share(3)) == (-40, 0)
