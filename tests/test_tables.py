"""Tables in the papers' column order: right numbers in right columns, gaps, marks, Markdown and LaTeX."""

import re
import statistics
from dataclasses import replace

import pytest

from d2r_fast.recognition.evaluation.measures import Gap, five_set_mean, over_runs, tar
from d2r_fast.recognition.evaluation.paper_tables import paper_tables
from d2r_fast.recognition.evaluation.results import Run, SuiteResult, by_run
from d2r_fast.recognition.evaluation.tables import Table, percent, race_tables, suite_table
from d2r_fast.recognition.evaluation.text_tables import to_latex, to_markdown

from .evaluationresults import RACES, made_rfw, made_run

DASH = "\N{EN DASH}"
ACCURACIES = {"lfw": 0.91, "calfw": 0.82, "cplfw": 0.73, "agedb_30": 0.64, "cfp_fp": 0.55, "cfp_ff": 0.46}
NUM_COLUMNS = {"digi2real-6": 9, "digi2real-7": 8, "syn2auth-2": 9, "syn2auth-3": 9}


def plain_run(shift: float = 0.0) -> list[SuiteResult]:
    """One result per suite with a number that only it has."""
    pairs = [SuiteResult(suite, accuracy=value + shift, std=0.01) for suite, value in ACCURACIES.items()]
    tars = {f"1e-{power}": 0.9 - 0.1 * power + shift for power in range(1, 7)}
    races = {race: SuiteResult(race, accuracy=0.6 + 0.1 * index) for index, race in enumerate(RACES)}
    return [
        *pairs,
        SuiteResult("ijbb", tar_at_far={"1e-4": 0.31 + shift}, fusion="F1N1D0"),
        SuiteResult("ijbc", tar_at_far=tars, fusion="F1N1D0"),
        SuiteResult("rfw", accuracy=0.75, std=0.1118, races=races),
    ]


def tables_of(runs: dict[str, Run]) -> dict[str, Table]:
    return {table.key: table for table in paper_tables(runs, name="net")}


def ours(table: Table) -> list[list[str]]:
    return [[percent(cell) for cell in row.cells] for row in table.rows if row.marked]


def test_every_number_stands_in_its_column() -> None:
    tables = tables_of(by_run(plain_run()))
    assert set(tables) == set(NUM_COLUMNS)
    assert ours(tables["digi2real-6"]) == [["91.00", "82.00", "73.00", "64.00", "55.00", "31.00", "50.00"]]
    assert tables["digi2real-6"].columns == ("LFW", "CALFW", "CPLFW", "AgeDB-30", "CFP-FP", "IJB-B", "IJB-C")
    assert ours(tables["digi2real-7"]) == [["60.00", "70.00", "80.00", "90.00", "75.00", "11.18"]]
    assert ours(tables["syn2auth-3"]) == [["30.00", "40.00", "50.00", "60.00", "70.00", "80.00"]]


def test_cfpfp_is_filled_twice() -> None:
    """LFW, CFPFP, CPLFW, CALFW, AGEDB, Avg: once with CFP-FP, once with CFP-FF."""
    table = tables_of(by_run(plain_run()))["syn2auth-2"]
    frontal_profile = statistics.mean([91, 55, 73, 82, 64])
    frontal_frontal = statistics.mean([91, 46, 73, 82, 64])
    assert ours(table) == [
        ["91.00", "55.00", "73.00", "82.00", "64.00", f"{frontal_profile:.2f}"],
        ["91.00", "46.00", "73.00", "82.00", "64.00", f"{frontal_frontal:.2f}"],
    ]
    assert [row.labels[1] for row in table.rows if row.marked] == ["net, CFP-FP", "net, CFP-FF"]
    without = [result for result in plain_run() if result.suite != "cfp_ff"]
    assert len(ours(tables_of(by_run(without))["syn2auth-2"])) == 1


def test_papers_rows_are_as_printed() -> None:
    tables = tables_of(by_run(plain_run()))
    cells = {row.labels[1:]: [percent(cell) for cell in row.cells] for row in tables["syn2auth-2"].rows}
    assert cells["DigiFace1M", "CodeFormer"][0] == "93.07 ± 0.27"
    assert cells["WebFace4M", "None"][-1] == "97.34 ± 0.00"
    cells = {row.labels[1:]: [percent(cell) for cell in row.cells] for row in tables["digi2real-6"].rows}
    assert cells[("Digi2Real-20K",)] == ["98.58", "87.22", "82.65", "84.72", "87.49", "70.14", "75.80"]


def test_what_was_not_evaluated_is_a_dash_and_not_zero() -> None:
    runs = by_run([SuiteResult("lfw", accuracy=0.9, std=0.01)])
    tables = tables_of(runs)
    assert set(tables) == {"digi2real-6", "syn2auth-2"}, "tables without any number of ours are left out"
    assert ours(tables["digi2real-6"]) == [["90.00", *[DASH] * 6]]
    assert ours(tables["syn2auth-2"]) == [["90.00", *[DASH] * 5]], "no Avg of what is incomplete"


def test_what_is_not_reached_is_said() -> None:
    result = SuiteResult("ijbc", tar_at_far={"1e-6": None, "1e-5": 0.4, "1e-4": 0.5})
    table = tables_of(by_run([result]))["syn2auth-3"]
    assert ours(table) == [["n/r", "40.00", "50.00", DASH, DASH, DASH]]
    better = replace(result, tar_at_far={"1e-6": 0.3})
    runs = by_run({"a": [result], "b": [better]})
    assert over_runs(runs, tar("ijbc", "1e-6")) is Gap.UNREACHED


def test_several_runs_are_mean_and_sample_deviation() -> None:
    runs = by_run({"seed-0": plain_run(), "seed-1": plain_run(0.02), "seed-2": plain_run(0.04)})
    tables = tables_of(runs)
    assert ours(tables["digi2real-6"])[0][0] == "93.00 ± 2.00"
    assert ours(tables["syn2auth-2"])[0][-1] == "75.00 ± 2.00"
    assert any("ddof 1" in note and "n = 3" in note for note in tables["digi2real-6"].notes)
    assert percent(over_runs(runs, five_set_mean)) == "75.00 ± 2.00"


def test_count_of_runs_is_that_of_the_numbers() -> None:
    runs = by_run({"a": plain_run(), "b": plain_run(0.02)[:1]})
    table = tables_of(runs)["digi2real-6"]
    assert any("n = 1 or 2 runs" in note for note in table.notes)


def test_deviation_of_the_average_is_that_of_averages() -> None:
    """Two runs, better at different sets: their averages agree, so their average has no spread."""
    first, second = plain_run(), plain_run()
    first[0], second[0] = replace(first[0], accuracy=0.93), replace(second[0], accuracy=0.89)
    first[1], second[1] = replace(first[1], accuracy=0.80), replace(second[1], accuracy=0.84)
    table = tables_of(by_run({"a": first, "b": second}))["syn2auth-2"]
    assert ours(table)[0][0] == "91.00 ± 2.83"
    assert ours(table)[0][-1] == "73.00 ± 0.00"


def test_fusion_is_stated() -> None:
    tables = tables_of(by_run(plain_run()))
    for key in ("digi2real-6", "syn2auth-3"):
        assert any("F1N1D0" in note for note in tables[key].notes)


def test_suite_table_has_a_row_per_run_and_their_mean() -> None:
    table = suite_table(by_run({"seed-0": plain_run(), "seed-1": plain_run(0.02)}), name="net")
    lfw = [row for row in table.rows if row.labels[0] == "LFW"]
    assert [row.labels[1] for row in lfw] == ["seed-0", "seed-1", "mean of 2 ± std."]
    assert [percent(row.cells[0]) for row in lfw] == ["91.00", "93.00", "92.00 ± 1.41"]
    assert [row.marked for row in lfw] == [False, False, True]
    assert suite_table(by_run(plain_run()), name="net").rows[0].labels == ("LFW", "net")


def test_races_have_a_table() -> None:
    result = made_rfw(1, skills={"African": 2, "Asian": 3})
    (table,) = race_tables(by_run([result]), name="net")
    assert [row.labels[0] for row in table.rows] == ["African", "Asian"]
    assert percent(table.rows[1].cells[0]) == f"{100 * (result.races['Asian'].accuracy or 0):.2f}"


def test_markdown_is_rectangular_and_escaped() -> None:
    runs = by_run({"seed|0": made_run(0), "b": made_run(1)})
    tables = [suite_table(runs, name="a|b*c"), *paper_tables(runs, name="a|b*c_<d>")]
    text = to_markdown(tables)
    blocks = [block for block in re.split(r"\n\n", text) if block.startswith("|")]
    assert len(blocks) == len(tables)
    for block, table in zip(blocks, tables, strict=True):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert counts == {len(table.heads) + len(table.columns) + 1}
    assert r"**a\|b\*c\_\<d\>**" in text
    assert "nan" not in text.lower()


def test_latex_is_rectangular_and_escaped() -> None:
    tables = paper_tables(by_run(made_run(0)), name=r"50%_a&b\c#{d}$")
    text = to_latex(tables)
    assert r"\textbf{50\%\_a\&b\textbackslash{}c\#\{d\}\$}" in text
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 4
    for block, table in zip(text.split(r"\begin{table*}")[1:], tables, strict=True):
        rows = [line for line in block.splitlines() if line.endswith(r"\\")]
        assert len(rows) == len(table.rows) + 1
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {NUM_COLUMNS[table.key]}
        assert block.count(r"\midrule") == 2, "below the head, and above ours"
    assert r"99.78 $\pm$ 0.00" in text
    assert not {DASH, "±"} & set(text)


@pytest.mark.parametrize(
    ("value", "text"), [(0.99995, "100.00"), (0.0, "0.00"), (1.0, "100.00"), (0.12344, "12.34")]
)
def test_percent_has_two_decimals(value: float, text: str) -> None:
    table = suite_table(by_run([SuiteResult("lfw", accuracy=value)]), name="net")
    assert percent(table.rows[0].cells[0]) == text
