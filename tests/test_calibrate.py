"""Spearman's correlation against SciPy's, and which predictors are ranked over which runs."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.published import accuracy_runs
from d2r_fast.recognition.quality.accuracies import read_accuracies
from d2r_fast.recognition.quality.calibrate import calibrate, published_groups
from d2r_fast.recognition.quality.config import QualityConfig
from d2r_fast.recognition.quality.quality import run_quality
from d2r_fast.recognition.quality.spearman import spearman


def run(given: tuple[str, ...], out: Path, accuracies: Path | None = None) -> list[dict[str, Any]]:
    """calibration.json."""
    assert calibrate(given, accuracies=accuracies, out=out, bootstrap=500, seed=0) == 0
    found: list[dict[str, Any]] = json.loads((out / "calibration.json").read_text())
    return found


def of(rankings: list[dict[str, Any]], group: str, target: str) -> dict[str, dict[str, float | None]]:
    """The predictors of one ranking, in its order."""
    (found,) = [one for one in rankings if (one["group"], one["target"]) == (group, target)]
    predictors: dict[str, dict[str, float | None]] = found["predictors"]
    return predictors


@pytest.mark.parametrize("ties", [False, True])
def test_rho_is_scipys(ties: bool) -> None:
    rng = np.random.default_rng(0)
    for num in (3, 8, 40):
        first, second = rng.standard_normal((2, num))
        if ties:
            first, second = np.round(first), np.round(second)
        found = spearman(first, second, num_resamples=100, seed=0)
        assert found.rho == pytest.approx(spearmanr(first, second).statistic)
        assert found.num == num


def test_order_is_all_that_counts() -> None:
    first = np.arange(9.0)
    for second, rho in ((np.exp(first), 1.0), (-(first**3), -1.0)):
        found = spearman(first, second, num_resamples=200, seed=0)
        assert (found.rho, found.low, found.high) == pytest.approx((rho, rho, rho))


def test_what_does_not_vary_or_is_too_few_has_no_rho() -> None:
    assert spearman(np.ones(9), np.arange(9.0), num_resamples=100, seed=0).rho is None
    assert spearman(np.arange(2.0), np.arange(2.0), num_resamples=100, seed=0).rho is None
    few = spearman(np.arange(4.0), np.arange(4.0), num_resamples=100, seed=0)
    assert (few.rho, few.low, few.high) == (1.0, None, None)


def test_interval_is_the_bootstraps() -> None:
    """Resampled one at a time with SciPy from the same draws."""
    rng = np.random.default_rng(5)
    first = rng.standard_normal(15)
    second = first + rng.standard_normal(15)
    found = spearman(first, second, num_resamples=300, seed=11)
    draws = np.random.default_rng(11).integers(15, size=(300, 15))
    rhos = [spearmanr(first[draw], second[draw]).statistic for draw in draws]
    np.testing.assert_allclose([found.low, found.high], np.quantile(rhos, [0.025, 0.975]))
    assert found.low is not None
    assert found.high is not None
    assert found.rho is not None
    assert found.low < found.rho < found.high
    assert spearman(first, second, num_resamples=300, seed=12).low != found.low


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # rho of a Gaussian pair of correlation 0.6
    hits = 0
    for _ in range(120):
        first, noise = rng.standard_normal((2, 40))
        found = spearman(first, 0.6 * first + 0.8 * noise, num_resamples=300, seed=0)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    assert 0.86 < hits / 120 <= 1


def test_groups_are_the_papers_runs() -> None:
    groups = published_groups()
    assert [len(runs) for runs in groups.values()] == [9, 8, 17, 27]
    assert len(accuracy_runs()) == 28
    table3, table4 = groups["Digi2Real Table 3"], groups["Digi2Real Table 4"]
    assert not table3.keys() & table4.keys()
    assert groups["Digi2Real Tables 3 and 4"].keys() == table3.keys() | table4.keys()


def test_what_the_papers_table_alone_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Identities of Table 4 against IJB-C and CFP-FP as printed there, by SciPy."""
    rankings = run((), tmp_path / "out")
    counts = [10, 20, 30, 40, 50, 60, 70, 80]
    ijbc = [72.79, 75.80, 67.82, 52.39, 43.75, 42.40, 33.91, 36.10]
    cfp_fp = [84.87, 87.49, 88.83, 88.60, 89.21, 89.57, 89.34, 89.77]
    for target, printed in (("ijbc", ijbc), ("cfp_fp", cfp_fp)):
        found = of(rankings, "Digi2Real Table 4", target)["num_identities"]
        assert found["rho"] == pytest.approx(spearmanr(counts, printed).statistic)
        assert found["num"] == 8
    assert (tmp_path / "out" / "calibration.md").read_text() == capsys.readouterr().out
    everywhere = of(rankings, "all published runs", "ijbc")
    assert next(iter(everywhere)) == "ijbb"
    assert "ijbc" not in everywhere
    assert of(rankings, "all published runs", "mean").keys() == {"ijbb", "ijbc"}  # the rest is part of it


def quality_file(folder: Path, **measures: float | None) -> str:
    folder.mkdir(parents=True)
    (folder / "quality.json").write_text(json.dumps({"measures": measures}))
    return f"{folder.name}={folder}"


def test_measures_are_ranked_by_their_correlation(tmp_path: Path) -> None:
    runs = [run for run in accuracy_runs() if run.source == "Digi2Real Table 4"]
    noise = [3, 1, 2, 0, 5, 4, 7, 6]
    given = [
        quality_file(
            tmp_path / run.name, good=run.scores["ijbc"] ** 3, poor=float(noise[place]), bad=-run.scores["ijbc"],
            flat=1.0, rare=0.5 if place < 2 else None,
        )
        for place, run in enumerate(runs)
    ]  # fmt: skip
    found = of(run_all := run(tuple(given), tmp_path / "out"), "given", "ijbc")
    assert list(found) == ["bad", "good", "poor", "flat", "rare"]
    assert (found["good"]["rho"], found["bad"]["rho"]) == pytest.approx((1, -1))
    poor = spearmanr(noise, [run.scores["ijbc"] for run in runs]).statistic
    assert found["poor"]["rho"] == pytest.approx(poor)
    assert found["flat"]["rho"] is None
    assert (found["rare"]["num"], found["rare"]["rho"]) == (2, None)
    assert {ranking["group"] for ranking in run_all} > {"given"}


def write_csv(path: Path, *rows: dict[str, object]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_own_accuracies_take_the_place_of_the_papers(tmp_path: Path) -> None:
    accuracies = write_csv(
        tmp_path / "accuracies.csv",
        *(
            {"run": name, "mine": place / 10, "lfw": "" if place else 0.9}
            for place, name in enumerate("abcdef")
        ),
    )
    predictors = write_csv(
        tmp_path / "predictors.csv", *({"run": name, "eer": -place} for place, name in enumerate("fedcba"))
    )
    rankings = run((str(predictors),), tmp_path / "out", accuracies)
    assert {ranking["group"] for ranking in rankings} == {"given"}
    assert of(rankings, "given", "mine")["eer"]["rho"] == pytest.approx(1)
    assert of(rankings, "given", "lfw")["eer"]["num"] == 1
    assert of(rankings, "given", "mean")["eer"] == of(rankings, "given", "mine")["eer"], (
        "LFW is known of one run"
    )


FIVE = {"lfw": 0.9, "calfw": 0.8, "cplfw": 0.7, "agedb_30": 0.6, "cfp_fp": 0.5}


@pytest.mark.parametrize(
    ("rows", "means"),
    [
        ([FIVE | {"ijbc": 0.1}, FIVE | {"lfw": 0.4}], [0.7, 0.6]),
        ([FIVE | {"ijbc": 0.2}, {"lfw": 0.4, "ijbc": 0.3}], [0.55, 0.35]),
        ([{"lfw": 0.4}, {"ijbc": 0.3}], [None, None]),
        ([{"lfw": 0.4}, {}], [0.4, None]),
        ([{"lfw": 0.4, "mean": 0.45}, {"lfw": 0.3}], [0.45, None]),
    ],
)
def test_every_mean_is_over_the_same_benchmarks(
    tmp_path: Path, rows: list[dict[str, float]], means: list[float | None]
) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    given = [
        {"run": str(place), **{name: row.get(name, "") for name in names}} for place, row in enumerate(rows)
    ]
    found = read_accuracies(write_csv(tmp_path / "accuracies.csv", *given))
    assert [values.get("mean") for values in found.values()] == pytest.approx(means)


@pytest.mark.parametrize("text", ["run\na\nb\n", "run,lfw\na,\nb,\n"])
def test_a_table_without_an_accuracy_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "accuracies.csv").write_text(text)
    with pytest.raises(UserError, match=r"accuracies\.csv has no accuracy of any run"):
        read_accuracies(tmp_path / "accuracies.csv")


def test_the_command_calibrates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_quality(QualityConfig(calibrate=(), bootstrap=100)) == 0
    assert "| ijbc | num_identities | 17 | -0.90 |" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    good = quality_file(tmp_path / "filtered-10k", eer=0.1)
    other = quality_file(tmp_path / "nobody", eer=0.1)
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    twice = write_csv(tmp_path / "twice.csv", {"run": "a", "x": 1}, {"run": "a", "x": 2})
    words = write_csv(tmp_path / "words.csv", {"run": "a", "x": "much"})
    nameless = write_csv(tmp_path / "nameless.csv", {"name": "a", "x": 1})
    for given, message in (
        ((f"a={tmp_path / 'none.json'}",), "none.json cannot be read"),
        ((f"a={broken}",), "is not what `d2r-fast quality` writes"),
        ((str(tmp_path / "none.csv"),), "cannot read"),
        ((str(twice),), "run a twice"),
        ((str(words),), "x = 'much'"),
        ((str(nameless),), "no table of runs"),
        ((good, good), "a second time"),
        ((other,), "'nobody' is not in the accuracy table: known are unfiltered-10k"),
        ((good,), "1 runs are given"),
    ):
        with pytest.raises(UserError, match=message):
            run(given, tmp_path / "out")
    with pytest.raises(UserError, match="nothing predicts"):
        run((), tmp_path / "out", write_csv(tmp_path / "acc.csv", {"run": "a", "lfw": 0.5}))
    assert not (tmp_path / "out").exists()
