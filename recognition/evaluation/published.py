"""What the two papers printed: their tables as published/*.csv, one file per table, in percent as printed.

Every row of a file says which paper and table it is from, of which metric, in which unit. A column "X std" is the
number that the paper prints behind the plus-minus of X.

Sources: Digi2Real, "Bridging the Realism Gap in Synthetic Data Face Recognition via Foundation Models", and
Syn2Auth, "From synthetic to authentic" (the set it calls RealDigiFace).
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from statistics import mean

SUITES = {
    "LFW": "lfw",
    "CALFW": "calfw",
    "CPLFW": "cplfw",
    "AgeDB-30": "agedb_30",
    "CFP-FP": "cfp_fp",
    "IJB-B": "ijbb",
    "IJB-C": "ijbc",
}
"""Digi2Real's columns and the suites they are of."""
FIVE = ("lfw", "calfw", "cplfw", "agedb_30", "cfp_fp")
"""The suites whose mean accuracy ranks networks."""
NAMES = (
    *(f"digi2real_table{number}" for number in range(1, 9)),
    "syn2auth_table2",
    "syn2auth_table3",
)
_SOURCE = ("paper", "table", "metric", "unit")
_LABELS = {"type", "dataset", "transfer_method", "syngen_req", "images_per_id", "alpha", "num_ids",
           "num_webface_ids"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One line of a table: `labels` say what was trained on, `values` and `stds` are percent by column."""

    labels: dict[str, str]
    values: dict[str, float]
    stds: dict[str, float]


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One table of a paper."""

    paper: str
    number: int
    metric: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True, slots=True)
class AccuracyRun:
    """A training set of a paper and what the network trained on it scored."""

    name: str
    source: str
    num_identities: int | None
    """Of Digi2Real's ID-count runs; None for the datasets of its Table 6."""
    filtered: bool | None
    """Whether look-alike identities were left out (Table 4) or not (Table 3); None for Table 6."""
    scores: dict[str, float]
    """Fractions by suite: accuracy, of ijbb and ijbc TAR at FAR 1e-4."""

    @property
    def mean_accuracy(self) -> float:
        """Mean over LFW, CALFW, CPLFW, AgeDB-30 and CFP-FP, a fraction."""
        return mean(self.scores[suite] for suite in FIVE)


def read_published(name: str) -> PublishedTable:
    """A table by its file's name, as "digi2real_table6"; see NAMES."""
    text = files(__package__).joinpath("published", f"{name}.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    first = rows[0]
    columns = tuple(key for key in first if key not in (*_SOURCE, *_LABELS) and not key.endswith(" std"))
    assert all(row[key] == first[key] for row in rows for key in _SOURCE), f"{name}.csv is of several tables"
    return PublishedTable(
        paper=first["paper"],
        number=int(first["table"]),
        metric=first["metric"],
        unit=first["unit"],
        columns=columns,
        rows=tuple(_row(row, columns) for row in rows),
    )


def accuracy_runs() -> list[AccuracyRun]:
    """The 17 ID-count runs of Digi2Real's Tables 3 and 4, then the 11 datasets of its Table 6.

    Digi2Real-20K is in it twice, as it is in the paper: as filtered-20k and as digi2real-20k.
    """
    counts = [
        AccuracyRun(
            name=f"{'filtered' if filtered else 'unfiltered'}-{row.labels['num_ids'].lower()}",
            source=f"Digi2Real Table {number}",
            num_identities=1000 * int(row.labels["num_ids"].removesuffix("K")),
            filtered=filtered,
            scores=_scores(row),
        )
        for number, filtered in ((3, False), (4, True))
        for row in read_published(f"digi2real_table{number}").rows
    ]
    datasets = [
        AccuracyRun(
            name=row.labels["dataset"].lower().replace(" ", "-"),
            source="Digi2Real Table 6",
            num_identities=None,
            filtered=None,
            scores=_scores(row),
        )
        for row in read_published("digi2real_table6").rows
    ]
    return counts + datasets


def _row(row: dict[str, str], columns: Iterable[str]) -> PublishedRow:
    return PublishedRow(
        labels={key: row[key] for key in row if key in _LABELS},
        values={column: float(row[column]) for column in columns},
        stds={column: float(row[f"{column} std"]) for column in columns if f"{column} std" in row},
    )


def _scores(row: PublishedRow) -> dict[str, float]:
    return {suite: row.values[column] / 100 for column, suite in SUITES.items()}
