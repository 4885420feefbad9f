"""Tables of rates: their form, and the one of every suite and run.

Rates are fractions until here and percent with two decimals in every table.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from d2r_fast.recognition.evaluation.measures import Gap, Measure, accuracy, eer, over_runs, spread, tar
from d2r_fast.recognition.evaluation.results import FARS, Run, Statistic, by_fusion, having, suites_of

TITLES = {
    "lfw": "LFW",
    "calfw": "CALFW",
    "cplfw": "CPLFW",
    "agedb_30": "AgeDB-30",
    "cfp_fp": "CFP-FP",
    "cfp_ff": "CFP-FF",
    "vgg2_fp": "VGG2-FP",
    "ijbb": "IJB-B",
    "ijbc": "IJB-C",
    "rfw": "RFW",
}
"""What the benchmarks are called in print."""
_FAR_NOTE = (
    "Columns 1e-6 to 1e-1: TAR at that FAR; n/r: not reached, there are fewer than 1/FAR impostor pairs, or so many "
    "pairs have the highest score that no threshold accepts so few."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line: who it is about, and a cell per column."""

    labels: tuple[str, ...]
    cells: tuple[Statistic | Gap, ...]
    marked: bool = False
    """What the table is about: ours among the papers' rows, the mean among runs."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: `heads` names the label columns, `columns` those with numbers."""

    key: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    subject: int = 1
    """Which label column says what a row is about."""


def suite_table(runs: Mapping[str, Run], *, name: str) -> Table:
    """Every suite of every run: accuracy, its standard deviation over folds (RFW: races), EER and TAR by FAR."""
    rows = [row for suite in suites_of(runs) for row in _suite_rows(runs, suite, name)]
    return Table(
        key="suites",
        title="Every benchmark",
        heads=("Benchmark", "Run"),
        subject=0,
        columns=("Accuracy", "Std.", "EER", *FARS),
        rows=tuple(rows),
        notes=(
            "In %. Std. is the population standard deviation over the ten folds, of RFW over the four races.",
            _FAR_NOTE,
            *fusion_notes(runs),
            *_mean_notes(runs),
        ),
    )


def race_tables(runs: Mapping[str, Run], *, name: str) -> list[Table]:
    """Of each suite with races: the columns of `suite_table`, a row per race and run."""
    return [
        replace(
            suite_table(
                {run_name: run[suite].races for run_name, run in runs.items() if suite in run}, name=name
            ),
            key=f"races-{suite}",
            title=f"{title_of(suite)} by race",
            heads=("Race", "Run"),
            notes=(
                "In %. Std. is the population standard deviation over the ten folds of a race.",
                _FAR_NOTE,
                *_mean_notes(runs),
            ),
        )
        for suite in suites_of(runs)
        if having(runs, suite)[0].races
    ]


def fusion_tables(runs: Mapping[str, Run], *, name: str) -> list[Table]:
    """Of each template benchmark: the columns of `suite_table`, a row per way of fusing and run."""
    return [
        replace(
            suite_table(
                {run_name: by_fusion(run[suite]) for run_name, run in runs.items() if suite in run}, name=name
            ),
            key=f"fusions-{suite}",
            title=f"{title_of(suite)} by fusion",
            heads=("Fusion", "Run"),
            notes=(
                "In %. Flip, norm and detector score, 1 used, 0 not: F1N1D1 is InsightFace's way and F1N1D0 AdaFace's. "
                "All rows are of the same embeddings.",
                _FAR_NOTE,
                *_mean_notes(runs),
            ),
        )
        for suite in suites_of(runs)
        if having(runs, suite)[0].fusions
    ]


def title_of(suite: str) -> str:
    """What a suite is called in print; one of the user's own keeps its name."""
    return TITLES.get(suite, suite)


def percent(cell: Statistic | Gap) -> str:
    """A cell's text: 88.13, 88.13 ± 0.20, –, n/r."""
    if isinstance(cell, Gap):
        return cell.value
    if cell.mean is None:
        return Gap.MISSING.value
    text = f"{100 * cell.mean:.2f}"
    return text if cell.std is None else f"{text} ± {100 * cell.std:.2f}"


def ours_row(runs: Mapping[str, Run], labels: tuple[str, ...], measures: Iterable[Measure]) -> Row:
    """A marked row of our own: one number per column, over all the runs."""
    return Row(labels, tuple(over_runs(runs, measure) for measure in measures), marked=True)


def _suite_rows(runs: Mapping[str, Run], suite: str, name: str) -> list[Row]:
    """A row per run, and one of their mean where there are several."""
    title = title_of(suite)
    measures = [accuracy(suite), spread(suite), eer(suite), *(tar(suite, far) for far in FARS)]
    having_it = {run_name: run for run_name, run in runs.items() if suite in run}
    rows = [
        replace(ours_row({run_name: run}, (title, run_name or name), measures), marked=False)
        for run_name, run in having_it.items()
    ]
    if len(having_it) > 1:
        rows.append(ours_row(having_it, (title, f"mean of {len(having_it)} ± std."), measures))
    return rows


def fusion_notes(runs: Mapping[str, Run]) -> list[str]:
    """Which triple the template benchmarks were fused with."""
    fusions = {
        result.fusion: None for run in runs.values() for result in run.values() if result.fusion is not None
    }
    return (
        [f"Our IJB templates: {', '.join(fusions)} (flip, norm and detector score, 1 used, 0 not)."]
        if fusions
        else []
    )


def _mean_notes(runs: Mapping[str, Run]) -> list[str]:
    """What the plus-minus of a mean row means."""
    return ["± is the sample standard deviation (ddof 1) over the runs."] if len(runs) > 1 else []
