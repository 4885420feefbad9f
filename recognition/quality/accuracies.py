"""What is known of runs: the accuracies that networks reached, and the predictors measured without training."""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.published import FIVE, AccuracyRun, accuracy_runs

Values = dict[str, dict[str, float]]
"""Numbers by run, then by name."""
MEAN = "mean"
RUN = "run"


def published_accuracies() -> Values:
    """Accuracies by run and benchmark, fractions, of the papers' runs; `mean` is over the five pair sets."""
    return {run.name: {MEAN: run.mean_accuracy, **run.scores} for run in accuracy_runs()}


def published_predictors() -> Values:
    """What the papers themselves say of their runs that might predict accuracy: identities, and whether filtered."""
    return {run.name: _known(run) for run in accuracy_runs() if run.num_identities is not None}


def _known(run: AccuracyRun) -> dict[str, float]:
    assert run.num_identities is not None, "of an ID-count run"
    return {"num_identities": run.num_identities, "filtered": float(bool(run.filtered))}


def read_accuracies(path: Path) -> Values:
    """Accuracies of a CSV: column run, and one column per benchmark.

    `mean` is the file's own, or else one over the same benchmarks for all runs: the five sets if every run has them,
    else what every run has. A run of which nothing is known does not count. Where runs have none in common there is
    no mean.

    Raises:
        UserError: as `read_table`, or there is no accuracy in it.
    """
    table = read_table(path)
    known = [values for values in table.values() if values]
    if not known:
        raise UserError(f"{path} has no accuracy of any run: give one column per benchmark")
    if any(MEAN in values for values in known):
        return table
    common = [name for name in known[0] if all(name in values for values in known)]
    names = FIVE if set(FIVE) <= set(common) else common
    for values in known if names else ():
        values[MEAN] = mean(values[name] for name in names)
    return table


def read_predictors(given: Iterable[str]) -> Values:
    """Predictors of `NAME=quality.json` and of CSV files.

    Raises:
        UserError: a file is missing or is none of these, or gives a run's predictor twice.
    """
    found: Values = {}
    for argument in given:
        name, equals, path = argument.partition("=")
        part = {name: read_measures(Path(path))} if equals else read_table(Path(argument))
        for run, values in part.items():
            twice = found.get(run, {}).keys() & values.keys()
            if twice:
                raise UserError(
                    f"{argument} gives {sorted(twice)[0]} of run {run} a second time: give it once"
                )
            found.setdefault(run, {}).update(values)
    return found


def read_measures(path: Path) -> dict[str, float]:
    """Measures of a quality.json, or of the folder that holds it."""
    file = path / "quality.json" if path.is_dir() else path
    try:
        measures = json.loads(file.read_bytes())["measures"]
        return {name: float(value) for name, value in measures.items() if value is not None}
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): give NAME=quality.json") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file} is not what `d2r-fast quality` writes: give NAME=quality.json") from None


def read_table(path: Path) -> Values:
    """Numbers of a CSV with the column run; an empty field is an unknown value.

    Raises:
        UserError: no such file, no column run, a run twice, a field that is no finite number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"cannot read {path} ({reason}): give a CSV with the column run, or NAME=quality.json"
        ) from None
    if not rows or RUN not in rows[0]:
        raise UserError(f"{path} is no table of runs: give a CSV with the column run and one per measure")
    table: Values = {}
    for row in rows:
        if row[RUN] in table:
            raise UserError(f"{path} has run {row[RUN]} twice: give each once")
        table[row[RUN]] = _numbers(path, row)
    return table


def _numbers(path: Path, row: Mapping[str | None, str | None]) -> dict[str, float]:
    """The fields of a row but its name."""
    found = {}
    for name, text in row.items():
        if name in (RUN, None) or not text:
            continue
        assert name is not None
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise UserError(
                f"{path}: run {row[RUN]} has {name} = {text!r}: give a finite number, or leave it empty"
            )
    return found
