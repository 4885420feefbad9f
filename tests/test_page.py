"""The evaluation's page: complete in itself, with every suite, gap and warning, whatever the names are."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.recognition.evaluation.results import SuiteResult, by_run, write_results
from d2r_fast.recognition.evaluation.tables import percent, suite_table

from .evaluationresults import made_pairs, made_run
from .fakereport import Page

ABOUT: dict[str, Any] = {
    "name": "ir_50", "networks": {"": "model.safetensors 1a2b"}, "flip": True, "benchmark_sha256": {"lfw": "ab" * 32},
}  # fmt: skip
NASTY = '<script>alert("1")</script>&{{ 7 * 7 }}'


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("one")
    write_results(folder, made_run(1), about=ABOUT)
    return Page(folder / "page.html")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("three")
    write_results(folder, {f"seed-{seed}": made_run(seed) for seed in range(3)}, about=ABOUT)
    return Page(folder / "page.html")


def written(folder: Path, results: Any, **about: Any) -> Page:
    write_results(folder, results, about=ABOUT | about)
    return Page(folder / "page.html")


def test_page_stands_alone(one: Page) -> None:
    assert all(link.startswith(("data:", "#")) for link in one.links), one.links
    assert "@import" not in one.html
    assert "<script" not in one.html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", one.html))
    assert len(one.ids) == len(set(one.ids)), "an id twice: one chart's marks would show in another"
    assert {link[1:] for link in one.links if link.startswith("#")} <= set(one.ids)


def test_both_modes_name_every_colour_that_is_used(one: Page) -> None:
    assert "prefers-color-scheme: dark" in one.html
    used = set(re.findall(r"var\((--[\w-]+)\)", one.html))
    for name in used - {"--n", "--c"}:
        assert len(re.findall(rf"{name}:", one.html)) >= (3 if name.startswith("--curve") else 1), name


def test_every_suite_is_shown_with_its_numbers(one: Page) -> None:
    runs = by_run(made_run(1))
    for row in suite_table(runs, name="ir_50").rows:
        assert f"{row.labels[0]} ir_50 {' '.join(percent(cell) for cell in row.cells)}" in one.text, (
            row.labels
        )
    for result in runs[""].values():
        for part in (result, *result.races.values()):
            if part.folds:
                assert " ".join(f"{100 * rate:.2f}" for rate in part.folds) in one.text
                assert " ".join(f"{threshold:.2f}" for threshold in part.thresholds) in one.text


def test_papers_rows_are_beside_ours(one: Page) -> None:
    assert "Digi2Real-20K 98.58 87.22 82.65 84.72 87.49 70.14 75.80" in one.text
    assert one.html.count('<tr class="ours"') == 5, "one in three tables, two in that of CFPFP"


def test_no_number_is_broken(one: Page, three: Page) -> None:
    for page in (one, three):
        text = page.text
        for dataset in ("WebFace4M", "DigiFace1M", "IDiffFace", "DCFace"):
            text = text.replace(f"{dataset} None", dataset)  # the paper's word for: not translated
        assert not re.search(r"\b(nan|inf|None|Undefined)\b", text)
        for rate in re.findall(r"(?<![\d.,])\d+\.\d\d(?![\d.])", page.text):
            assert 0 <= float(rate) <= 100


def test_what_is_not_reached_says_why(one: Page) -> None:
    assert "LFW 1e-6, 1e-5, 1e-4 3,000 10,000 too few pairs" in one.text
    assert "IJB-C 1e-6 200,000 1,000,000 too few pairs" in one.text
    assert "RFW African 1e-6, 1e-5, 1e-4 3,000 10,000 too few pairs" in one.text
    assert "Not evaluated, since not in the benchmarks folder or not chosen: VGG2-FP." in one.text


def test_equal_scores_are_another_reason(tmp_path: Path) -> None:
    """Of the second seed alone: the mean is not reached either."""
    good = SuiteResult("lfw", tar_at_far={"1e-4": None, "1e-2": 0.5}, num_impostor=3000)
    collapsed = replace(good, tar_at_far={"1e-4": None, "1e-2": None})
    page = written(tmp_path, {"a": [good], "b": [collapsed]})
    assert "LFW 1e-4 3,000 10,000 too few pairs" in page.text
    assert "LFW 1e-2 3,000 \N{EN DASH} equal scores" in page.text


def test_val_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    shown = {0.875: "87.50", None: "n/r"}
    for place, (rate, text) in enumerate(shown.items()):
        (tmp_path / str(place)).mkdir()
        result = SuiteResult("lfw", val_at_far={"1e-3": rate}, num_genuine=5, num_impostor=6)
        assert f"LFW 5 6 0 {text} " in written(tmp_path / str(place), [result]).text


def test_all_reached(tmp_path: Path) -> None:
    page = written(
        tmp_path, [SuiteResult("ijbc", tar_at_far={"1e-4": 0.5}, num_impostor=10**7, fusion="F1N0D1")]
    )
    assert "Every TAR that was asked for is reached." in page.text
    assert "fused by F1N0D1" in page.text


def test_unreadable_images_are_told_at_the_top(tmp_path: Path, one: Page) -> None:
    page = written(tmp_path, [made_pairs("lfw", 1, skill=3, num_unreadable=7)])
    assert "Images could not be read LFW: 7." in page.text
    assert "could not be read" not in one.text


def test_both_conventions_stand_on_the_page(tmp_path: Path) -> None:
    other = SuiteResult("ijbc", tar_at_far={"1e-4": 0.25}, fusion="F1N1D0")
    result = SuiteResult("ijbc", tar_at_far={"1e-4": 0.5}, fusion="F1N1D1", fusions={"F1N1D0": other})
    page = written(tmp_path, {"a": [result], "b": [result]})
    assert "IJB-C by fusion" in page.text
    for fusion, rate in (("F1N1D1", "50.00"), ("F1N1D0", "25.00")):
        assert re.search(rf"{fusion} a [^F]*{rate}", page.text)
        assert re.search(rf"{fusion} mean of 2 ± std\. [^F]*{rate} ± 0\.00", page.text)


def test_deviation_of_runs_is_named(three: Page) -> None:
    assert "sample standard deviation (ddof 1) over n = 3 runs" in three.text
    assert "mean of 3 ± std." in three.text
    for seed in range(3):
        assert f"LFW seed-{seed} " in three.text


def test_what_does_not_compare_is_said(one: Page) -> None:
    section = one.text[one.text.index("What does not compare The papers") :]
    for said in (
        "CFPFP is not CFP-FP", "88.62 78.89", "41.35 ± 5.32 49.53", "45.88 ± 3.53 59.96", "75.80 to 36.10",
        "0.22 (DigiFace1M) to 1.31 points (IDiffFace)", "77.03 (DigiFace1M)", "ddof 1",
        "population, over the ten folds",
        "0.84 to 3.46 points on CALFW, 2.85 to 7.77 on CPLFW and 2.88 to 5.81 on AgeDB",
        "synthetic embeddings feature norm and detector score alone", "flip was not varied",
    ):  # fmt: skip
        assert said in section, said


def test_names_are_text(tmp_path: Path) -> None:
    result = replace(made_pairs("lfw", 1, skill=3), suite=NASTY)
    page = written(tmp_path, {NASTY: [result], "b": [result]}, name=NASTY, note=NASTY)
    assert "<script" not in page.html
    assert "49" not in re.findall(r"&amp;(\d+)", page.html)
    assert page.text.count(" ".join(NASTY.split())) >= 6


def test_own_benchmark_alone(tmp_path: Path) -> None:
    page = written(tmp_path, [made_pairs("ict", 1, skill=3)])
    assert "Beside the papers" not in page.text, "there is nothing to put beside them"
    assert re.search(r"ict \d\d\.\d\d % accuracy", page.text)


def test_nothing_evaluated(tmp_path: Path) -> None:
    page = written(tmp_path, [])
    assert "0 benchmarks" in page.text


def test_settings_are_listed(one: Page) -> None:
    assert "model.safetensors 1a2b" in one.text
    assert "flip true" in one.text
    assert "ab" * 32 in one.text
