"""The papers' question in small: its sets, its trials, and what it says of them."""

import csv
import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from d2r_fast.bench.miniature.reproduce import config as scales
from d2r_fast.bench.miniature.reproduce.config import FULL, MOST, ReproduceConfig, Scale
from d2r_fast.bench.miniature.reproduce.document import describe, render_tables, say_direction, settings_of
from d2r_fast.bench.miniature.reproduce.page import render_page, render_sheet
from d2r_fast.bench.miniature.reproduce.plot import render_plot
from d2r_fast.bench.miniature.reproduce.scores import CALIBRATION
from d2r_fast.bench.miniature.reproduce.sets import (
    BENCHMARKS,
    DIGI2REAL,
    FIRST,
    MAIN,
    RANKING,
    REAL,
    RENDERS,
    SUITE,
    generation_of,
    link_parts,
    names_of,
    parts_of,
)
from d2r_fast.bench.miniature.reproduce.trials import (
    ACCURACIES,
    Trial,
    run_trial,
    trials_of,
    write_accuracies,
)
from d2r_fast.engine.source import open_source
from d2r_fast.recognition.evaluation.bin_file import write_bin

from .conftest import PROGRAM
from .fakefaces import draw_patterns, pattern_pairs

SMALL = Scale(
    identities=8, images=6, pairs=40, held_identities=4, target_identities=2, epochs=2, batch_size=16, seeds=2
)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReproduceConfig:
    """One of eight people and six images, of which nothing is there."""
    monkeypatch.setattr(scales, "FULL", SMALL)
    monkeypatch.setattr(scales, "QUICK", SMALL)
    return ReproduceConfig(
        miniature=True, facekit=tmp_path, models=tmp_path, out=tmp_path / "out", device="cpu"
    )


def pretend(config: ReproduceConfig, name: str, accuracies: list[float]) -> None:
    """Results of a set's trials."""
    for trial, accuracy in zip(trials_of(config, name), accuracies, strict=True):
        folder = trial.folder / "evaluation"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({SUITE: {"accuracy": accuracy}}))


def rank_patterns(config: ReproduceConfig, order: list[int]) -> None:
    with (config.out / RANKING).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "identity", "score", "nearest"])
        writer.writerows([rank, f"{identity:03d}", 0.5, "000"] for rank, identity in enumerate(order))


def names_in(folder: Path) -> dict[str, list[str]]:
    return {
        identity.name: [image.name for image in identity.images]
        for identity in open_source(folder).identities
    }


def test_nobody_is_in_two_sets() -> None:
    assert all(later - earlier >= MOST for earlier, later in pairwise(sorted(FIRST.values())))
    limit = next(item.le for item in Scale.model_fields["identities"].metadata if hasattr(item, "le"))
    assert limit <= MOST


def test_parts_are_of_the_people_and_images_that_they_say(experiment: ReproduceConfig) -> None:
    draw_patterns(experiment.out / DIGI2REAL, num_identities=8, images_per_identity=6)
    rank_patterns(experiment, [5, 2, 7, 0, 1, 3, 4, 6])
    link_parts(experiment)
    link_parts(experiment)  # what is there stays
    found = {name: names_in(experiment.out / name) for name in parts_of(SMALL)}
    assert {tuple(images) for images in found["digi2real-images-2"].values()} == {("0.png", "3.png")}
    assert {tuple(images) for images in found["digi2real-images-4"].values()} == {
        ("0.png", "1.png", "3.png", "4.png")
    }
    assert list(found["digi2real-identities-2"]) == ["000", "001"]
    assert list(found["digi2real-identities-4"]) == ["000", "001", "002", "003"]
    assert set(found["digi2real-distinct-2"]) == {"005", "002"}
    assert set(found["digi2real-distinct-4"]) == {"005", "002", "007", "000"}
    whole = open_source(experiment.out / DIGI2REAL)
    part = open_source(experiment.out / "digi2real-distinct-2")
    assert part.read(part.image("005", "1.png")) == whole.read(whole.image("005", "1.png"))


def test_only_the_whole_experiment_has_parts() -> None:
    places: dict[str, Any] = {"facekit": Path("x"), "models": Path("y")}
    assert names_of(ReproduceConfig(miniature=True, quick=True, **places)) == [*MAIN]
    assert len(names_of(ReproduceConfig(miniature=True, **places))) == len(MAIN) + 1 + len(parts_of(FULL))


def test_the_generation_is_digi2reals(experiment: ReproduceConfig) -> None:
    config = generation_of(experiment, DIGI2REAL)
    assert config.alpha == 2
    assert config.ranking == experiment.out / RANKING
    assert config.clip_offset is not None
    assert (
        generation_of(experiment, "digi2real-alpha-1").model_copy(update={"alpha": 2.0, "out": config.out})
        == config
    )


def test_a_trial_trains_on_its_set_and_is_verified_on_the_pairs(experiment: ReproduceConfig) -> None:
    draw_patterns(experiment.out / RENDERS, num_identities=8, images_per_identity=6)
    (experiment.out / BENCHMARKS).mkdir()
    write_bin(
        experiment.out / BENCHMARKS / f"{SUITE}.bin", *pattern_pairs(experiment.out / RENDERS, num_pairs=40)
    )
    trials = trials_of(experiment, RENDERS)
    assert [trial.seed for trial in trials] == [0, 1]
    run_trial(trials[0])
    assert 0.5 <= trials[0].accuracy <= 1
    before = trials[0].accuracy
    run_trial(trials[0])
    assert trials[0].accuracy == before
    pretend(experiment, "digi2real", [0.75, 0.5])
    write_accuracies(experiment, ["digi2real"])
    assert (experiment.out / ACCURACIES).read_text() == f"run,{SUITE}\ndigi2real,0.625000\n"


def test_what_is_said_is_what_was_measured(experiment: ReproduceConfig) -> None:
    accuracies = {RENDERS: [0.6, 0.7], DIGI2REAL: [0.7, 0.8], "syn2auth": [0.6, 0.6], REAL: [0.85, 0.85]}
    for number, (name, found) in enumerate(accuracies.items()):
        draw_patterns(
            experiment.out / name, num_identities=8, images_per_identity=6 - number % 2, seed=number
        )
        pretend(experiment, name, found)
    (experiment.out / CALIBRATION).mkdir()
    measure = {"num": 3, "rho": 0.5, "low": None, "high": None}
    (experiment.out / CALIBRATION / "calibration.json").write_text(
        json.dumps([{"group": "given", "target": SUITE, "predictors": {"vendi": measure}}])
    )
    document = describe(experiment, [*MAIN], {"draw": 3.0})
    assert document["digi2real_less_renders"] == pytest.approx(0.1)
    assert document["gap_closed"] == pytest.approx({DIGI2REAL: 0.5, "syn2auth": -0.25})
    assert say_direction(document) == (
        "Digi2Real beats renders by 10.00 points, 50% of what photographs would add."
    )
    assert "| (b) Digi2Real of them | 8 | 40 | 75.00 ± 7.07 | 70.00, 80.00 |" in render_tables(document)
    assert document["settings"] == settings_of(experiment)
    sheet, plot = render_sheet(experiment.out), render_plot(document)
    machine = {"gpu": None, "cpu": "a CPU", "num_cores": 2}
    page = render_page(document | {"machine": machine}, sheet=sheet, plot=plot)
    assert "Digi2Real beats renders by 10.00 points" in page
    assert page.count("<img") == 2
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_claim_that_does_not_hold_is_said_to() -> None:
    document = {"digi2real_less_renders": -0.0125, "gap_closed": {DIGI2REAL: None}}
    assert say_direction(document) == "Digi2Real does not beat renders: it is 1.25 points below."


def test_the_sheet_has_a_row_for_each_set_and_white_where_a_picture_is_missing(tmp_path: Path) -> None:
    for number, name in enumerate(MAIN):
        draw_patterns(tmp_path / name, num_identities=3, images_per_identity=2, seed=number)
    (tmp_path / DIGI2REAL / "001" / "1.png").unlink()
    (tmp_path / "sheet.png").write_bytes(render_sheet(tmp_path))
    with Image.open(tmp_path / "sheet.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (4 * 112 + 3 * 4, 6 * 112 + 5 * 4, 3)
    cells = [[sheet[row * 116 :][:112, column * 116 :][:, :112] for column in range(6)] for row in range(4)]
    assert [(cell == 255).all() for cell in cells[1]] == [False, False, False, True, False, False]
    assert not any((cell == 255).all() for row in (cells[0], cells[2], cells[3]) for cell in row)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give --miniature"),
        (["--miniature"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, flags: list[str], said: str) -> None:
    run = subprocess.run(
        [PROGRAM, "reproduce", *flags, "--facekit", "nowhere", "--models", "nowhere", "--out", tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert said in run.stderr
    assert run.stderr.strip().count("\n") <= 1
    assert Trial(ReproduceConfig(miniature=True, facekit=tmp_path, models=tmp_path), "x", 3).seed == 3
