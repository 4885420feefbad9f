"""`quality --calibrate`: which measure tells how well a network trained on the set will do?

Syn2Auth asks for a measure that predicts accuracy. Each predictor is ranked by Spearman's correlation, over runs,
with the accuracy that networks trained on them reached. What the published table alone can tell comes first: how
accuracy goes with the number of identities (Digi2Real, Tables 3 and 4), and how benchmarks go with each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import disk_errors, write_atomic
from d2r_fast.engine.marker import dump
from d2r_fast.recognition.evaluation.published import FIVE, accuracy_runs
from d2r_fast.recognition.quality.accuracies import (
    MEAN,
    Values,
    published_accuracies,
    published_predictors,
    read_accuracies,
    read_predictors,
)
from d2r_fast.recognition.quality.spearman import MIN_RUNS, Correlation, spearman
from d2r_fast.recognition.quality.summary import NOTHING

DOCUMENT, PAGE = "calibration.json", "calibration.md"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Predictors of one accuracy over one group of runs, the strongest first."""

    group: str
    target: str
    predictors: dict[str, Correlation]


def calibrate(
    given: Sequence[str], *, accuracies: Path | None, out: Path | None, bootstrap: int, seed: int
) -> int:
    """Rank predictors, print the tables, and write calibration.json and calibration.md if `out` is given.

    Args:
        given: NAME=quality.json of runs in the accuracy table, or CSV files with the column run.
        accuracies: CSV of accuracies by run; None for the papers' table.
        out: folder to write to, or None.
        bootstrap: resamples for the 95 % intervals.
        seed: of the resamples.

    Raises:
        UserError: a file cannot be used, a run is not in the table, or fewer than three runs are given.
    """
    known = published_accuracies() if accuracies is None else read_accuracies(accuracies)
    predictors = read_predictors(given)
    _check_runs(predictors, known)
    groups = {} if accuracies is not None else published_groups()
    if predictors:
        groups["given"] = predictors
    if not groups:
        raise UserError(
            "nothing predicts the given accuracies: give --calibrate NAME=quality.json of each run"
        )
    rankings = [
        rank_predictors(group, found, known, target, num_resamples=bootstrap, seed=seed)
        for group, found in groups.items()
        for target in targets(found, known)
    ]
    page = render_rankings(rankings)
    print(page, end="")
    if out is not None:
        with disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / PAGE, page.encode())
        write_atomic(out / DOCUMENT, dump([asdict(ranking) for ranking in rankings]))
    return 0


def published_groups() -> dict[str, Values]:
    """Groups of published runs, and what is known of them without looking at an image.

    Other benchmarks are predictors too: where LFW does not tell IJB-C, no measure fitted to LFW will. Of
    Digi2Real-20K, which is in two tables, the one of Table 4 is taken.
    """
    counted = published_predictors()
    of_tables = {
        f"Digi2Real Table {number}": {
            run.name: {"num_identities": counted[run.name]["num_identities"]}
            for run in accuracy_runs() if run.source == f"Digi2Real Table {number}"
        }
        for number in (3, 4)
    }  # fmt: skip
    scores = {run.name: dict(run.scores) for run in accuracy_runs() if run.name != "digi2real-20k"}
    return {**of_tables, "Digi2Real Tables 3 and 4": counted, "all published runs": scores}


def targets(predictors: Values, known: Values) -> list[str]:
    """The accuracies that are known of the runs of some predictors, in the table's order."""
    return list(dict.fromkeys(name for run in predictors for name in known[run]))


def rank_predictors(
    group: str, predictors: Values, known: Values, target: str, *, num_resamples: int, seed: int
) -> Ranking:
    """Correlate each predictor with one accuracy, over the runs of which both are known.

    A benchmark predicts neither itself nor a mean that it is part of.
    """
    barred = {target, *(FIVE if target == MEAN else ())}
    names = dict.fromkeys(name for values in predictors.values() for name in values if name not in barred)
    found = {
        name: spearman(*_pairs(predictors, known, name, target), num_resamples=num_resamples, seed=seed)
        for name in names
    }
    order = sorted(found, key=lambda name: (-abs(found[name].rho or 0.0), name))
    return Ranking(group, target, {name: found[name] for name in order})


def _pairs(predictors: Values, known: Values, name: str, target: str) -> tuple[Any, Any]:
    runs = [run for run, values in predictors.items() if name in values and target in known[run]]
    return (
        np.array([predictors[run][name] for run in runs], np.float64),
        np.array([known[run][target] for run in runs], np.float64),
    )


def _check_runs(predictors: Values, known: Mapping[str, Any]) -> None:
    unknown = [run for run in predictors if run not in known]
    if unknown:
        raise UserError(
            f"run {unknown[0]!r} is not in the accuracy table: known are "
            f"{', '.join(known)}; --accuracies takes a table of your own"
        )
    if predictors and len(predictors) < MIN_RUNS:
        raise UserError(f"{len(predictors)} runs are given: a ranking takes {MIN_RUNS} or more")


def render_rankings(rankings: Sequence[Ranking]) -> str:
    """The tables in Markdown, which also reads well on a terminal."""
    lines = [
        "# Predictors of accuracy",
        "",
        "Spearman's rho over runs, the strongest first, with its 95 % bootstrap interval over runs. A rho whose",
        "interval holds 0 tells nothing, and runs of one paper are not independent of each other.",
    ]
    for group in dict.fromkeys(ranking.group for ranking in rankings):
        lines += [
            "",
            f"## {group}",
            "",
            "| accuracy | predictor | runs | rho | 95 % |",
            "|---|---|---:|---:|---|",
        ]
        lines += [
            f"| {ranking.target} | {name} | {found.num} | {_number(found.rho)} | {_interval(found)} |"
            for ranking in rankings if ranking.group == group
            for name, found in ranking.predictors.items()
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.2f}"


def _interval(found: Correlation) -> str:
    if found.low is None or found.high is None:
        return NOTHING
    return f"{found.low:+.2f} to {found.high:+.2f}"
