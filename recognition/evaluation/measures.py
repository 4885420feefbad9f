"""What a column takes from a run, and a number over several runs."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from statistics import mean

from d2r_fast.recognition.evaluation.published import FIVE
from d2r_fast.recognition.evaluation.results import Run, Statistic, SuiteResult, statistic

TEMPLATES = ("ijbb", "ijbc")
"""Suites that are told as TAR at FAR."""


class Gap(Enum):
    """Why there is no number."""

    MISSING = "\N{EN DASH}"
    """Not evaluated."""
    UNREACHED = "n/r"
    """Too few impostor pairs for that FAR, or too many pairs of the highest score."""


Value = float | Gap
Measure = Callable[[Run], Value]
"""What a column takes from one run."""


def over_runs(runs: Mapping[str, Run], measure: Measure) -> Statistic | Gap:
    """A column's number over the runs that have it; not reached where one of them did not reach it."""
    found = [measure(run) for run in runs.values()]
    if Gap.UNREACHED in found:
        return Gap.UNREACHED
    known = [value for value in found if not isinstance(value, Gap)]
    return statistic(known) if known else Gap.MISSING


def accuracy(suite: str) -> Measure:
    """Accuracy on a suite."""
    return lambda run: _known(run[suite].accuracy) if suite in run else Gap.MISSING


def spread(suite: str) -> Measure:
    """Standard deviation within a suite."""
    return lambda run: _known(run[suite].std) if suite in run else Gap.MISSING


def eer(suite: str) -> Measure:
    """Equal error rate on a suite."""
    return lambda run: _known(run[suite].eer) if suite in run else Gap.MISSING


def race_accuracy(race: str) -> Measure:
    """Accuracy on one race of RFW."""
    return lambda run: (
        _known(run["rfw"].races[race].accuracy) if "rfw" in run and race in run["rfw"].races else Gap.MISSING
    )


def tar(suite: str, far: str) -> Measure:
    """TAR at a FAR."""
    return lambda run: tar_of(run[suite], far) if suite in run else Gap.MISSING


def val(suite: str) -> Measure:
    """VAL at the one FAR that it is read at."""

    def measure(run: Run) -> Value:
        rates = list(run[suite].val_at_far.values()) if suite in run else []
        return Gap.MISSING if not rates else Gap.UNREACHED if rates[0] is None else rates[0]

    return measure


def average(suites: Sequence[str]) -> Measure:
    """Mean accuracy over suites, missing where one is."""

    def measure(run: Run) -> Value:
        found = [run[suite].accuracy for suite in suites if suite in run]
        known = [value for value in found if value is not None]
        return mean(known) if len(known) == len(suites) else Gap.MISSING

    return measure


def five_set_mean(run: Run) -> Value:
    """Mean accuracy over LFW, CALFW, CPLFW, AgeDB-30 and CFP-FP."""
    return average(FIVE)(run)


def tar_of(result: SuiteResult, far: str) -> Value:
    """TAR of a result at a FAR."""
    if far not in result.tar_at_far:
        return Gap.MISSING
    value = result.tar_at_far[far]
    return Gap.UNREACHED if value is None else value


def _known(value: float | None) -> Value:
    return Gap.MISSING if value is None else value
