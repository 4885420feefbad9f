"""The papers' tables: every file whole, and numbers that fit what the papers say about them."""

import hashlib
import json
import statistics

import pytest

from d2r_fast.recognition.evaluation.comparison import same_sets
from d2r_fast.recognition.evaluation.published import NAMES, accuracy_runs, read_published

NUM_ROWS = {
    "digi2real_table1": 3, "digi2real_table2": 2, "digi2real_table3": 9, "digi2real_table4": 8, "digi2real_table5": 2,
    "digi2real_table6": 11, "digi2real_table7": 11, "digi2real_table8": 7, "syn2auth_table2": 6, "syn2auth_table3": 6,
}  # fmt: skip
SEVEN = ("LFW", "CALFW", "CPLFW", "AgeDB-30", "CFP-FP", "IJB-B", "IJB-C")
RACES = ("African", "Asian", "Caucasian", "Indian")


def test_every_number_is_the_one_that_was_checked() -> None:
    """Against the papers, digit by digit; a row that no other repeats would hide a slip. After a correction: as printed
    by the failing test."""
    rows = {name: [[row.labels, row.values, row.stds] for row in read_published(name).rows] for name in NAMES}
    text = json.dumps(rows, sort_keys=True)
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "5fd87da7578578d711423a7ca1ba5e8dbdc835cbf94e19196062438bb070ec92"
    )


def test_every_table_is_there() -> None:
    assert {name: len(read_published(name).rows) for name in NAMES} == NUM_ROWS


@pytest.mark.parametrize("name", NAMES)
def test_every_row_names_its_source(name: str) -> None:
    table = read_published(name)
    assert f"{table.paper.lower()}_table{table.number}" == name
    assert table.unit == "percent"
    assert "accuracy" in table.metric or "TAR" in table.metric
    for row in table.rows:
        assert set(row.values) == set(table.columns)
        assert all(0 < value <= 100 for value in row.values.values()), row
        assert all(0 <= std < 10 for std in row.stds.values()), row


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith("digi2real") and name != "digi2real_table7"]
)
def test_columns_of_digi2real(name: str) -> None:
    assert read_published(name).columns == SEVEN


def test_columns_of_the_others() -> None:
    assert read_published("digi2real_table7").columns == (*RACES, "Mean", "Std.")
    assert read_published("syn2auth_table2").columns == ("LFW", "CFPFP", "CPLFW", "CALFW", "AGEDB", "Avg")
    assert read_published("syn2auth_table3").columns == ("1e-06", "1e-05", "1e-04", "0.001", "0.01", "0.1")


def test_rfw_mean_and_population_deviation_are_those_of_the_races() -> None:
    for row in read_published("digi2real_table7").rows:
        races = [row.values[race] for race in RACES]
        assert row.values["Mean"] == pytest.approx(statistics.mean(races), abs=0.0101), row
        assert row.values["Std."] == pytest.approx(statistics.pstdev(races), abs=0.0101), row


def test_tables_that_repeat_a_network_repeat_its_numbers() -> None:
    tables = {number: read_published(f"digi2real_table{number}").rows for number in range(1, 9)}
    of = {
        number: {list(row.labels.values())[-1]: row.values for row in rows} for number, rows in tables.items()
    }
    ours = of[6]["Digi2Real-20K"]
    assert ours == of[5]["Digi2Real-20K"] == of[4]["20K"] == of[8]["0"]
    assert of[5]["DigiFace1M"] == of[6]["DigiFace1M"]
    assert of[2]["1"] == of[1]["10"]
    assert of[2]["2"] == of[3]["10K"]
    assert [row.labels["dataset"] for row in tables[6]] == [row.labels["dataset"] for row in tables[7]]


def test_tar_rises_with_far() -> None:
    for row in read_published("syn2auth_table3").rows:
        rates = list(row.values.values())
        assert rates == sorted(rates)
        assert len(set(rates)) == 6


def test_syn2auth_average_is_the_mean_of_its_columns_for_real_faces_alone() -> None:
    gaps = {}
    for row in read_published("syn2auth_table2").rows:
        five = [value for column, value in row.values.items() if column != "Avg"]
        gaps[row.labels["dataset"], row.labels["transfer_method"]] = row.values["Avg"] - statistics.mean(five)
    assert abs(gaps.pop(("WebFace4M", "None"))) < 0.005
    assert all(-1.4 < gap < -0.2 for gap in gaps.values()), gaps


def test_accuracy_runs_are_17_id_counts_and_11_datasets() -> None:
    runs = accuracy_runs()
    counts, datasets = runs[:17], runs[17:]
    assert len(runs) == 28
    assert len({run.name for run in runs}) == 28
    assert [run.num_identities for run in counts] == [
        1000 * n for n in (10, 20, 30, 40, 50, 60, 70, 80, 87, 10, 20, 30, 40, 50, 60, 70, 80)
    ]
    assert [run.filtered for run in counts] == [False] * 9 + [True] * 8
    assert {run.num_identities for run in datasets} == {None}
    for run in runs:
        assert set(run.scores) == {"lfw", "calfw", "cplfw", "agedb_30", "cfp_fp", "ijbb", "ijbc"}
        assert all(0 < score < 1 for score in run.scores.values()), "fractions"
        assert run.source.startswith("Digi2Real Table ")


def test_mean_accuracy_is_over_five_sets() -> None:
    runs = {run.name: run for run in accuracy_runs()}
    assert runs["digi2real-20k"].mean_accuracy == pytest.approx(0.88132)
    assert runs["filtered-20k"].mean_accuracy == runs["digi2real-20k"].mean_accuracy
    assert runs["filtered-20k"].scores["ijbc"] == pytest.approx(0.7580)
    assert runs["unfiltered-20k"].scores["ijbc"] == pytest.approx(0.6386)
    assert max(runs.values(), key=lambda run: run.mean_accuracy).name == "msceleb"


def test_the_sets_that_both_papers_share() -> None:
    found = {same.name: same for same in same_sets()}
    assert len(found) == 4
    codeformer = found["DigiFace1M through CodeFormer"]
    assert codeformer.ijbc == (45.88, 59.96)
    assert codeformer.ijbc_std == 3.53
    assert found["DCFace"].cfp == (97.87, 88.03)
    assert found["IDiffFace"].average_gap == pytest.approx(-1.308, abs=1e-9)
    assert found["DigiFace1M"].sixth == pytest.approx(77.03)
    for same in found.values():
        assert abs(same.lfw[0] - same.lfw[1]) < 2
        assert 8 < same.cfp[0] - same.cfp[1] < 14.5
        assert 8 < same.ijbc[1] - same.ijbc[0] < 14.5
