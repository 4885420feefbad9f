"""results.json: its form, what it refuses, and means over runs."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine.errors import RunError
from d2r_fast.recognition.evaluation import results as results_module
from d2r_fast.recognition.evaluation.results import (
    SuiteResult,
    by_run,
    decode_suite,
    encode_results,
    encode_suite,
    statistic,
    to_json,
    write_results,
)

from .evaluationresults import made_pairs, made_rfw, made_templates

FIRST_KEYS = ["accuracy", "std", "folds", "thresholds", "tar_at_far", "eer"]
FILES = {"results.json", "about.json", "table.md", "table.tex", "roc.csv", "roc.png", "roc.svg", "page.html"}


def lfw(**changed: Any) -> SuiteResult:
    given: dict[str, Any] = {
        "suite": "lfw", "accuracy": 0.99, "std": 0.002, "folds": (0.99,) * 10, "thresholds": (1.4,) * 10,
        "tar_at_far": {"1e-4": None, "1e-3": 0.9}, "val_at_far": {"1e-3": 0.85}, "eer": 0.01,
        "num_genuine": 3000, "num_impostor": 3000,
    }  # fmt: skip
    return SuiteResult(**(given | changed))


def test_one_run_is_a_suite_by_its_name() -> None:
    document = json.loads(to_json(encode_results(by_run([lfw()]))))
    assert list(document) == ["lfw"]
    entry = document["lfw"]
    assert list(entry)[:6] == FIRST_KEYS
    assert entry["accuracy"] == 0.99, "a fraction and not percent"
    assert len(entry["folds"]) == len(entry["thresholds"]) == 10
    assert entry["tar_at_far"] == {"1e-4": None, "1e-3": 0.9}, "not reached is null and not 0"
    assert entry["val_at_far"] == {"1e-3": 0.85}


def test_a_named_run_alone_is_written_as_one_run() -> None:
    assert encode_results(by_run({"seed-0": [lfw()]})) == encode_results(by_run([lfw()]))


def test_several_runs_have_mean_and_sample_deviation() -> None:
    accuracies = [0.99, 0.97, 0.95]
    runs = {
        f"seed-{i}": [lfw(accuracy=a, tar_at_far={"1e-4": None, "1e-3": a / 2})]
        for i, a in enumerate(accuracies)
    }
    document = json.loads(to_json(encode_results(by_run(runs))))
    assert list(document) == ["runs", "mean", "std"]
    assert document["runs"]["seed-1"]["lfw"]["accuracy"] == 0.97
    assert document["mean"]["lfw"]["accuracy"] == pytest.approx(0.97)
    assert (
        document["std"]["lfw"]["accuracy"]
        == pytest.approx(statistics.stdev(accuracies))
        == pytest.approx(0.02)
    )
    assert document["std"]["lfw"]["tar_at_far"] == {"1e-4": None, "1e-3": pytest.approx(0.01)}
    assert document["mean"]["lfw"]["num_runs"] == 3


def test_mean_is_over_the_runs_that_have_a_suite() -> None:
    document = encode_results(
        by_run({"a": [lfw()], "b": [lfw(accuracy=0.95), lfw(suite="cfp_fp", accuracy=0.9)]})
    )
    assert document["mean"]["cfp_fp"]["accuracy"] == 0.9
    assert document["std"]["cfp_fp"]["accuracy"] is None, "one run has no deviation"
    assert document["mean"]["cfp_fp"]["num_runs"] == 1


def test_races_have_means_of_their_own() -> None:
    skills = {"African": 2.0, "Asian": 3.0}
    runs = {str(seed): [made_rfw(seed, skills=skills)] for seed in (1, 2)}
    document = json.loads(to_json(encode_results(by_run(runs))))
    found = [document["runs"][str(seed)]["rfw"]["races"]["Asian"]["accuracy"] for seed in (1, 2)]
    assert document["mean"]["rfw"]["races"]["Asian"]["accuracy"] == pytest.approx(sum(found) / 2)


def test_statistic_is_unknown_where_one_number_is() -> None:
    assert statistic([0.5, None]).mean is None
    assert statistic([]).mean is None
    assert statistic([0.5]).std is None
    assert statistic([0.25, 0.75]).std == pytest.approx(0.5**0.5 / 2)


@pytest.mark.parametrize("result", [made_pairs("lfw", 1, skill=3), made_templates("ijbc", 2, skill=3),
                                    made_rfw(3, skills={"African": 2, "Asian": 3})])  # fmt: skip
def test_encoding_loses_nothing_but_the_curve(result: SuiteResult) -> None:
    entry = json.loads(to_json(encode_suite(result)))
    assert decode_suite(result.suite, entry) == result, "equality leaves out curve and time"


@pytest.mark.parametrize(
    "changed",
    [
        {"accuracy": float("nan")},
        {"accuracy": 99.0},
        {"eer": float("inf")},
        {"std": -0.1},
        {"folds": (0.9, float("nan"))},
        {"thresholds": (float("inf"),)},
        {"tar_at_far": {"1e-4": float("nan")}},
        {"val_at_far": {"1e-3": 1.5}},
    ],
)
def test_what_is_no_fraction_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lfw: "):
        lfw(**changed)


def test_a_nan_never_reaches_a_file() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"seconds": float("nan")})


def test_a_suite_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        by_run([lfw(), lfw()])


def small_run(seed: int) -> list[SuiteResult]:
    """One suite of each kind, one curve: drawing takes the time."""
    rfw = made_rfw(seed, skills={"African": 2, "Asian": 3})
    races = {race: replace(result, roc=None) for race, result in rfw.races.items()}
    templates = made_templates("ijbc", seed, skill=3, num_impostor=20_000)
    return [made_pairs("lfw", seed, skill=3), replace(templates, roc=None), replace(rfw, races=races)]


def test_written_and_read_again(tmp_path: Path) -> None:
    first, second = small_run(1), small_run(2)
    write_results(tmp_path, first, about={"name": "net"})
    assert {path.name for path in tmp_path.iterdir()} == FILES
    document = json.loads((tmp_path / "results.json").read_bytes())
    assert [decode_suite(suite, entry) for suite, entry in document.items()] == first
    write_results(tmp_path, {"a": first, "b": second}, about={"name": "net"})
    runs = json.loads((tmp_path / "results.json").read_bytes())["runs"]
    assert list(runs) == ["a", "b"]
    assert [decode_suite(suite, entry) for suite, entry in runs["b"].items()] == second


def test_equal_results_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, small_run(1), about={"name": "net"})
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_results_json_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while the page is written leaves no results.json, not even an older one."""
    write_results(tmp_path, [made_pairs("lfw", 1, skill=3)], about={"name": "net"})
    real = results_module.write_atomic

    def full(path: Path, data: bytes) -> Any:
        if path.name == "page.html":
            raise RunError("the disk is full")
        return real(path, data)

    monkeypatch.setattr(results_module, "write_atomic", full)
    with pytest.raises(RunError):
        write_results(tmp_path, [made_pairs("lfw", 2, skill=3)], about={"name": "net"})
    assert not (tmp_path / "results.json").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    write_results(tmp_path, [made_pairs("lfw", 1, skill=3)], about={})
    write_results(tmp_path, [lfw()], about={})
    assert not (tmp_path / "roc.png").exists(), "there is no curve any more"
    assert not (tmp_path / "roc.svg").exists()
