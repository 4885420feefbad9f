"""Our results in the papers' tables: their columns, their rows, and ours below.

paper_tables(runs, name="RUN")    # Digi2Real Tables 6 and 7, Syn2Auth Tables 2 and 3
"""

from collections.abc import Iterable, Mapping

from d2r_fast.recognition.evaluation.measures import (
    TEMPLATES,
    Gap,
    Measure,
    accuracy,
    average,
    race_accuracy,
    spread,
    tar,
)
from d2r_fast.recognition.evaluation.published import SUITES, PublishedRow, PublishedTable, read_published
from d2r_fast.recognition.evaluation.results import FARS, RACES, Run, Statistic
from d2r_fast.recognition.evaluation.tables import Row, Table, fusion_notes, ours_row

SYN2AUTH_HEADS = ("Type", "Training set", "Transfer method")


def paper_tables(runs: Mapping[str, Run], *, name: str) -> list[Table]:
    """The papers' tables that have at least one number of ours, with a row (or two) about `name` below."""
    tables = (
        digi2real(runs, name),
        digi2real_rfw(runs, name),
        syn2auth(runs, name),
        syn2auth_ijbc(runs, name),
    )
    return [table for table in tables if any(_has_number(row) for row in table.rows if row.marked)]


def digi2real(runs: Mapping[str, Run], name: str) -> Table:
    """Digi2Real Table 6, whose rows include those of its Table 5."""
    published = read_published("digi2real_table6")
    measures = [tar(suite, "1e-4") if suite in TEMPLATES else accuracy(suite) for suite in SUITES.values()]
    ours = ours_row(runs, ("ours", name), measures)
    notes = ["IJB-B and IJB-C: TAR at FAR=1e-4; the other columns: accuracy. All in %.", *fusion_notes(runs)]
    return Table(
        key="digi2real-6",
        title="Digi2Real, Tables 5 and 6: networks by training set",
        heads=("Type", "Training set"),
        columns=published.columns,
        rows=(
            *(_theirs(row, published.columns, ("type", "dataset")) for row in published.rows),
            ours,
        ),
        notes=(*notes, *_count_notes([ours])),
    )


def digi2real_rfw(runs: Mapping[str, Run], name: str) -> Table:
    """Digi2Real Table 7."""
    published = read_published("digi2real_table7")
    measures = [*(race_accuracy(race) for race in RACES), accuracy("rfw"), spread("rfw")]
    ours = ours_row(runs, ("ours", name), measures)
    return Table(
        key="digi2real-7",
        title="Digi2Real, Table 7: RFW",
        heads=("Type", "Training set"),
        columns=published.columns,
        rows=(
            *(_theirs(row, published.columns, ("type", "dataset")) for row in published.rows),
            ours,
        ),
        notes=(
            "Accuracy in %; Std. is the population standard deviation over the four races.",
            *_count_notes([ours]),
        ),
    )


def syn2auth(runs: Mapping[str, Run], name: str) -> Table:
    """Syn2Auth Table 2. Its column CFPFP is filled with CFP-FP, and again with CFP-FF where that was evaluated."""
    published = read_published("syn2auth_table2")
    ours = [ours_row(runs, ("ours", f"{name}, CFP-FP", Gap.MISSING.value), _five("cfp_fp"))]
    if any("cfp_ff" in run for run in runs.values()):
        ours.append(ours_row(runs, ("ours", f"{name}, CFP-FF", Gap.MISSING.value), _five("cfp_ff")))
    return Table(
        key="syn2auth-2",
        title="Syn2Auth, Table 2: networks by training set",
        heads=SYN2AUTH_HEADS,
        columns=published.columns,
        rows=(
            *_syn2auth_rows(published),
            *ours,
        ),
        notes=(
            "Accuracy in %, theirs with the standard deviation over 2 to 4 runs. Their column CFPFP is most likely "
            "CFP-FF, and their Avg is not the mean of the five columns except for WebFace4M; our Avg is.",
            *_count_notes(ours),
        ),
    )


def syn2auth_ijbc(runs: Mapping[str, Run], name: str) -> Table:
    """Syn2Auth Table 3."""
    published = read_published("syn2auth_table3")
    ours = ours_row(runs, ("ours", name, Gap.MISSING.value), [tar("ijbc", far) for far in FARS])
    return Table(
        key="syn2auth-3",
        title="Syn2Auth, Table 3: IJB-C, TAR by FMR",
        heads=SYN2AUTH_HEADS,
        columns=published.columns,
        rows=(
            *_syn2auth_rows(published),
            ours,
        ),
        notes=(
            "TAR in %, theirs with the standard deviation over 2 to 4 runs. FMR is what the rest of this calls FAR.",
            *fusion_notes(runs),
            *_count_notes([ours]),
        ),
    )


def _syn2auth_rows(published: PublishedTable) -> list[Row]:
    return [_theirs(row, published.columns, ("type", "dataset", "transfer_method")) for row in published.rows]


def _five(cfp: str) -> list[Measure]:
    suites = ("lfw", cfp, "cplfw", "calfw", "agedb_30")
    return [*map(accuracy, suites), average(suites)]


def _theirs(row: PublishedRow, columns: Iterable[str], labels: Iterable[str]) -> Row:
    cells = [
        Statistic(row.values[column] / 100, row.stds[column] / 100 if column in row.stds else None, 0)
        for column in columns
    ]
    return Row(tuple(row.labels[label] for label in labels), tuple(cells))


def _has_number(row: Row) -> bool:
    return any(isinstance(cell, Statistic) for cell in row.cells)


def _count_notes(rows: Iterable[Row]) -> list[str]:
    """What the plus-minus of our rows means."""
    counts = sorted({cell.num for row in rows for cell in row.cells if isinstance(cell, Statistic)})
    if not counts or counts[-1] < 2:
        return []
    return [f"Ours: mean ± sample standard deviation (ddof 1) over n = {' or '.join(map(str, counts))} runs."]
