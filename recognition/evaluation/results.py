"""What an evaluation found: one SuiteResult per benchmark, and results.json, the file that holds them.

One run is written as {suite: {"accuracy", "std", "folds", "thresholds", "tar_at_far", "eer", ...}}, several runs
(seeds) as {"runs": {name: what one run is written as}, "mean": {suite: ...}, "std": {suite: ...}}, where std is
the sample standard deviation over the runs (ddof 1). All numbers are fractions, never percent; null is what was
not measured or not reached. There is no NaN.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from d2r_fast.engine.files import disk_errors, write_atomic

if TYPE_CHECKING:
    from d2r_fast.recognition.evaluation.roc import Roc

RESULTS = "results.json"
FARS = ("1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1")
"""False accept rates that a TAR is reported at, as keys of `tar_at_far`."""
RACES = ("African", "Asian", "Caucasian", "Indian")
"""Of RFW, in the order of reports."""


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """One network on one benchmark. Rates are fractions in [0, 1].

    Raises:
        ValueError: a rate is NaN, infinite or outside [0, 1]: what is not known is None.
    """

    suite: str
    accuracy: float | None = None
    """Mean accuracy over the folds; RFW: mean over the races; None for template benchmarks."""
    std: float | None = None
    """Population standard deviation over the folds; RFW: over the races."""
    folds: tuple[float, ...] = ()
    """Accuracy of each fold, at the threshold chosen on the others."""
    thresholds: tuple[float, ...] = ()
    """The folds' thresholds on the squared L2 distance of unit vectors, in [0, 4]."""
    tar_at_far: dict[str, float | None] = field(default_factory=dict)
    """True accept rate by false accept rate ("1e-4"); None where it is not reached: there are too few impostor pairs
    for it, or so many pairs have the highest score that no threshold accepts so few."""
    val_at_far: dict[str, float | None] = field(default_factory=dict)
    """InsightFace's VAL, the true accept rate at thresholds chosen on the other folds; likewise."""
    eer: float | None = None
    """Equal error rate."""
    num_genuine: int = 0
    num_impostor: int = 0
    num_unreadable: int = 0
    """Images that could not be decoded."""
    fusion: str | None = None
    """Template benchmarks: which of flip, norm and detector score weighed in, as F1N1D0."""
    fusions: "dict[str, SuiteResult]" = field(default_factory=dict)
    """Template benchmarks: the same embeddings in the other ways of weighing."""
    races: "dict[str, SuiteResult]" = field(default_factory=dict)
    """RFW: one result per race."""
    roc: "Roc | None" = field(default=None, compare=False, repr=False)
    seconds: float = field(default=0.0, compare=False)
    """How long the evaluation took."""

    def __post_init__(self) -> None:
        rates = {"accuracy": self.accuracy, "std": self.std, "eer": self.eer}
        rates |= {f"fold {index}": rate for index, rate in enumerate(self.folds)}
        rates |= {f"TAR at FAR {far}": rate for far, rate in self.tar_at_far.items()}
        rates |= {f"VAL at FAR {far}": rate for far, rate in self.val_at_far.items()}
        for name, rate in rates.items():
            if rate is not None and not 0.0 <= rate <= 1.0:
                raise ValueError(f"{self.suite}: {name} is {rate}: give a fraction in [0, 1], or None")
        if not all(map(math.isfinite, self.thresholds)):
            raise ValueError(f"{self.suite}: a threshold is not finite")


Run = Mapping[str, SuiteResult]
"""Results of one network by suite."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number over several runs: mean, sample standard deviation (ddof 1; None below two runs), their count."""

    mean: float | None
    std: float | None
    num: int


def statistic(values: Sequence[float | None]) -> Statistic:
    """Mean and spread of one number over runs; unknown as a whole where it is unknown in one of them."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Statistic(None, None, len(values))
    return Statistic(mean(known), stdev(known) if len(known) > 1 else None, len(known))


def by_run(results: Sequence[SuiteResult] | Mapping[str, Sequence[SuiteResult]]) -> dict[str, Run]:
    """Results by run, then by suite. A bare list is one run without a name.

    Raises:
        ValueError: a run has a suite twice.
    """
    runs = results if isinstance(results, Mapping) else {"": results}
    sorted_out: dict[str, Run] = {}
    for name, found in runs.items():
        sorted_out[name] = {result.suite: result for result in found}
        if len(sorted_out[name]) < len(found):
            raise ValueError(f"run {name!r} has a suite twice")
    return sorted_out


def suites_of(runs: Mapping[str, Run]) -> list[str]:
    """Every suite that some run has, in the order of appearance."""
    return list(dict.fromkeys(suite for run in runs.values() for suite in run))


def having(runs: Mapping[str, Run], suite: str) -> list[SuiteResult]:
    """The results on one suite, of the runs that have it."""
    return [run[suite] for run in runs.values() if suite in run]


def choose_fusion(results: Mapping[str, SuiteResult], name: str) -> SuiteResult:
    """One of several results on the same embeddings, with the others beside it."""
    return replace(results[name], fusions={other: results[other] for other in results if other != name})


def by_fusion(result: SuiteResult) -> dict[str, SuiteResult]:
    """A result and those beside it, by fusion."""
    assert result.fusion is not None, "of a template benchmark"
    return {result.fusion: replace(result, fusions={}), **result.fusions}


def encode_results(runs: Mapping[str, Run]) -> dict[str, Any]:
    """The content of results.json."""
    encoded = {
        name: {suite: encode_suite(result) for suite, result in run.items()} for name, run in runs.items()
    }
    if len(encoded) == 1:
        return next(iter(encoded.values()))
    spread = {suite: _statistics(having(runs, suite)) for suite in suites_of(runs)}
    return {
        "runs": encoded,
        "mean": {suite: _pick(found, "mean") for suite, found in spread.items()},
        "std": {suite: _pick(found, "std") for suite, found in spread.items()},
    }


def encode_suite(result: SuiteResult) -> dict[str, Any]:
    """One suite as results.json has it. Curves and times are no part of it: they are not results."""
    entry: dict[str, Any] = {
        "accuracy": result.accuracy,
        "std": result.std,
        "folds": list(result.folds),
        "thresholds": list(result.thresholds),
        "tar_at_far": dict(result.tar_at_far),
        "eer": result.eer,
        "val_at_far": dict(result.val_at_far),
        "num_genuine": result.num_genuine,
        "num_impostor": result.num_impostor,
        "num_unreadable": result.num_unreadable,
    }
    if result.fusion is not None:
        entry["fusion"] = result.fusion
    if result.fusions:
        entry["fusions"] = {fusion: encode_suite(found) for fusion, found in result.fusions.items()}
    if result.races:
        entry["races"] = {race: encode_suite(found) for race, found in result.races.items()}
    return entry


def decode_suite(suite: str, entry: Mapping[str, Any]) -> SuiteResult:
    """The inverse of `encode_suite`: everything but the curve and the time."""
    return SuiteResult(
        suite=suite,
        accuracy=entry["accuracy"],
        std=entry["std"],
        folds=tuple(entry["folds"]),
        thresholds=tuple(entry["thresholds"]),
        tar_at_far=dict(entry["tar_at_far"]),
        val_at_far=dict(entry["val_at_far"]),
        eer=entry["eer"],
        num_genuine=entry["num_genuine"],
        num_impostor=entry["num_impostor"],
        num_unreadable=entry["num_unreadable"],
        fusion=entry.get("fusion"),
        fusions={fusion: decode_suite(suite, found) for fusion, found in entry.get("fusions", {}).items()},
        races={race: decode_suite(race, found) for race, found in entry.get("races", {}).items()},
    )


def to_json(document: Mapping[str, Any]) -> bytes:
    """Strict JSON, ending in a line break.

    Raises:
        ValueError: there is a NaN or an infinity in it.
    """
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_results(
    out: Path,
    results: Sequence[SuiteResult] | Mapping[str, Sequence[SuiteResult]],
    *,
    about: Mapping[str, Any],
) -> None:
    """Write everything an evaluation leaves into folder `out`, which exists; results.json comes last.

    results.json, about.json (what was evaluated and how), table.md, table.tex, roc.csv, roc.png, roc.svg (where
    there is a curve) and page.html. Nothing is left that says results.json while the rest is of another run.

    Args:
        out: the folder; files of an earlier evaluation in it are replaced.
        results: of one run, or by run (seeds) of several; a suite is shown in the order given.
        about: what can be told as JSON. "name" is the label of our rows; every other key is listed in the page as
            it is.

    Raises:
        RunError: the disk is full.
        UserError: the folder may not be written to.
    """
    from d2r_fast.recognition.evaluation.page import render_files  # the page is made of results

    runs = by_run(results)
    rendered = render_files(runs, about=about)
    final = to_json(encode_results(runs))
    with disk_errors(out):
        for name in (RESULTS, "roc.png", "roc.svg"):
            (out / name).unlink(missing_ok=True)
    for name, data in rendered.items():
        write_atomic(out / name, data)
    write_atomic(out / RESULTS, final)


def _statistics(results: Sequence[SuiteResult]) -> dict[str, Any]:
    """The numbers of one suite over its runs, in the shape of an entry."""
    found: dict[str, Any] = {
        "accuracy": statistic([result.accuracy for result in results]),
        "std": statistic([result.std for result in results]),
        "tar_at_far": _by_far([result.tar_at_far for result in results]),
        "val_at_far": _by_far([result.val_at_far for result in results]),
        "eer": statistic([result.eer for result in results]),
        "num_runs": len(results),
    }
    for name in ("races", "fusions"):
        parts: list[Mapping[str, SuiteResult]] = [getattr(result, name) for result in results]
        keys = dict.fromkeys(key for part in parts for key in part)
        if keys:
            found[name] = {key: _statistics([part[key] for part in parts if key in part]) for key in keys}
    return found


def _by_far(rates: Sequence[Mapping[str, float | None]]) -> dict[str, Statistic]:
    fars = dict.fromkeys(far for given in rates for far in given)
    return {far: statistic([given.get(far) for given in rates]) for far in fars}


def _pick(found: Any, name: str) -> Any:
    """The same shape with one number of each statistic."""
    if isinstance(found, Statistic):
        return getattr(found, name)
    return {key: _pick(value, name) for key, value in found.items()} if isinstance(found, dict) else found
