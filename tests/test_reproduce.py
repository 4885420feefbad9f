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
from d2r_fast.bench.miniature.reproduce.config import FULL, MOST_OF_A_KIND, QUICK, ReproduceConfig, Scale
from d2r_fast.bench.miniature.reproduce.difference import Difference, difference
from d2r_fast.bench.miniature.reproduce.document import (
    describe,
    measure_rows,
    render_tables,
    say_direction,
    settings_of,
)
from d2r_fast.bench.miniature.reproduce.page import render_page, render_sheet
from d2r_fast.bench.miniature.reproduce.photographs import behind, behind_guide
from d2r_fast.bench.miniature.reproduce.plot import render_plot
from d2r_fast.bench.miniature.reproduce.scores import SCORES, rank_measures
from d2r_fast.bench.miniature.reproduce.sets import (
    BENCHMARKS,
    DIGI2REAL,
    FIRST,
    MAIN,
    RANKING,
    REAL,
    RENDERS,
    SUITE,
    TARGET,
    generation_of,
    link_parts,
    names_of,
    parts_of,
)
from d2r_fast.bench.miniature.reproduce.trials import (
    ACCURACIES,
    GUIDE,
    Trial,
    run_trial,
    trials_of,
    write_accuracies,
)
from d2r_fast.engine.errors import UserError
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
        write_verified(trial.folder / "evaluation", accuracy)
        (trial.folder / "network").mkdir()
        (trial.folder / "network" / "config.json").write_text(json.dumps({"about": {"steps": 12}}))


def write_verified(folder: Path, accuracy: float) -> None:
    folder.mkdir(parents=True)
    found = {"accuracy": accuracy, "folds": [accuracy - 0.01, accuracy + 0.01]}
    (folder / "results.json").write_text(json.dumps({SUITE: found}))


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
    assert all(later - earlier >= MOST_OF_A_KIND for earlier, later in pairwise(sorted(FIRST.values())))
    limit = next(item.le for item in Scale.model_fields["identities"].metadata if hasattr(item, "le"))
    assert limit <= MOST_OF_A_KIND


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
    before = trials[0].verified
    assert 0.5 <= before["accuracy"] <= 1
    assert len(before["folds"]) == 10
    assert trials[0].steps == 2 * 48 // 16
    run_trial(trials[0])
    assert trials_of(experiment, RENDERS)[0].verified == before
    pretend(experiment, "digi2real", [0.75, 0.5])
    write_accuracies(experiment, ["digi2real"])
    assert (experiment.out / ACCURACIES).read_text() == f"run,{SUITE}\ndigi2real,0.625000\n"


def test_what_is_said_is_what_was_measured(experiment: ReproduceConfig) -> None:
    accuracies = {RENDERS: [0.6, 0.7], DIGI2REAL: [0.7, 0.8], "syn2auth": [0.6, 0.6], REAL: [0.8, 0.9]}
    for number, (name, found) in enumerate(accuracies.items()):
        draw_patterns(
            experiment.out / name, num_identities=8, images_per_identity=6 - number % 2, seed=number
        )
        pretend(experiment, name, found)
    draw_patterns(experiment.out / TARGET, num_identities=2, images_per_identity=4)
    write_verified(experiment.out / GUIDE, 0.9)
    document = describe(experiment.model_copy(update={"quick": True}), [*MAIN], {"draw": 3.0})
    apart = document["over_renders"][DIGI2REAL]
    assert apart == {
        "mean": pytest.approx(0.1), "error": pytest.approx(0, abs=1e-9), "trainings": 2, "sure": True,
    }  # fmt: skip
    assert document["gap_closed"] == pytest.approx({DIGI2REAL: 0.5, "syn2auth": -0.25})
    assert say_direction(document) == (
        "Digi2Real beats renders by 10.0 ± 0.0 points, 50% of what as many photographs of others would add."
    )
    tables = render_tables(document)
    assert "| (b) Digi2Real of them | 8 | 40 | 12 | unknown | 75.00 ± 7.07 | 70.00, 80.00 |" in tables
    assert "| (c) translated by UNSB, as Syn2Auth does | 8 | 48 | 12 | 0 + 8 |" in tables
    assert "| the network that (b) is steered by |  |  |  | unknown | 90.00 | 90.00 |" in tables
    assert document["settings"] == settings_of(experiment) | {"quick": True}
    sheet, plot = render_sheet(experiment.out), render_plot(document)
    machine = {"gpu": None, "cpu": "a CPU", "num_cores": 2}
    made_of = {"head": "0" * 64, "networks": "1" * 64, "precision": "bf16", "device": "cpu"}
    page = render_page(document | {"machine": machine, "made_of": made_of}, sheet=sheet, plot=plot)
    assert "Digi2Real beats renders by 10.0 ± 0.0 points" in page
    assert page.count("<img") == 2
    assert "Measures" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("mean", "error", "trainings", "said"),
    [
        (-0.0125, 0.01, 3, "Digi2Real does not beat renders: it is 1.2 ± 1.0 points below."),
        (0.0125, 0.02, 3, "Digi2Real and renders do not differ beyond chance: +1.2 ± 2.0 points."),
        (0.0125, 0.001, 1, "Digi2Real less renders: +1.2 ± 0.1 points by these pairs, of one training each."),
    ],
)
def test_a_claim_that_does_not_hold_is_said_to(mean: float, error: float, trainings: int, said: str) -> None:
    apart = Difference(mean, error, trainings).entry()
    assert say_direction({"over_renders": {DIGI2REAL: apart}, "gap_closed": {DIGI2REAL: None}}) == said


def test_a_difference_is_as_sure_as_its_seeds_and_its_pairs() -> None:
    """Quantiles of Student's t from the tables: 4.303 for 2 degrees of freedom, 2.262 for 9."""
    ours, theirs = np.full((3, 10), 0.8), np.full((3, 10), 0.7)
    assert difference(ours, theirs).mean == pytest.approx(0.1)
    assert difference(ours, theirs).is_sure
    by_seed = ours + np.array([-0.2, 0, 0.2])[:, None]
    assert difference(by_seed, theirs).error == pytest.approx(4.303 * 0.2 / 3**0.5, rel=1e-3)
    assert not difference(by_seed, theirs).is_sure
    by_fold = ours + np.tile([-0.2, 0.2], 5)
    assert difference(by_fold, theirs).error == pytest.approx(2.262 * 0.2 / 9**0.5, rel=1e-3)
    assert difference(by_fold[:1], theirs[:1]).error == difference(by_fold, theirs).error
    assert difference(by_fold, by_fold - 0.1).error == pytest.approx(0, abs=1e-9), (
        "the same pairs are as hard for both"
    )
    assert not difference(ours[:1], theirs[:1]).is_sure, "one training says nothing of the next"


@pytest.mark.parametrize(
    ("between_seeds", "between_folds", "left"), [(0.02, 0.01, 0), (0.01, 0.01, 0.01), (0, 0, 0.02)]
)
def test_an_interval_holds_the_truth_19_times_in_20(
    between_seeds: float, between_folds: float, left: float
) -> None:
    draws = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        seeds, folds = draws.normal(0, between_seeds, (3, 1)), draws.normal(0, between_folds, (1, 10))
        found = difference(0.1 + seeds + folds + draws.normal(0, left, (3, 10)), np.zeros((3, 10)))
        held.append(abs(found.mean - 0.1) <= found.error)
    assert 0.92 < np.mean(held) < 0.99


def test_photographs_behind_a_set_are_all_that_were_learnt_from(
    experiment: ReproduceConfig, tmp_path: Path
) -> None:
    draw_patterns(experiment.out / REAL, num_identities=3, images_per_identity=5)
    draw_patterns(experiment.out / TARGET, num_identities=2, images_per_identity=4)
    assert behind(experiment, RENDERS) == {"named": 0, "unnamed": 0}
    assert behind(experiment, REAL) == {"named": 15, "unnamed": 0}
    assert behind(experiment, "syn2auth") == {"named": 0, "unnamed": 8}
    assert behind(experiment, DIGI2REAL) is None, "nothing is known of these models"
    card = {"kind": "miniature", "recipe": {}, "photographs": {"named": 30, "unnamed": 14}, "files": {}}
    (tmp_path / "models.json").write_text(json.dumps(card))
    assert behind(experiment, "digi2real-images-2") == {"named": 30, "unnamed": 14 + 8}
    assert behind_guide(experiment) == {"named": 30, "unnamed": 0}
    (tmp_path / "models.json").write_text(json.dumps(card | {"photographs": {"named": "many"}}))
    with pytest.raises(UserError, match=r"models\.json is not a model folder's card"):
        behind_guide(experiment)


def test_measures_are_ranked_over_all_sets_and_over_those_of_one_size(experiment: ReproduceConfig) -> None:
    names = [RENDERS, DIGI2REAL, "syn2auth", REAL, "digi2real-alpha-1", "digi2real-images-2"]
    for number, name in enumerate(names):
        pretend(experiment, name, [0.6 + number / 100] * 2)
        size = 2.0 if "images" in name else 9.0
        measures = {"rising": float(number), "falling": -float(number), "size": size, "unknown": None}
        (experiment.out / SCORES / name).mkdir(parents=True)
        (experiment.out / SCORES / name / "quality.json").write_text(json.dumps({"measures": measures}))
    write_accuracies(experiment, names)
    found = {entry.pop("measure"): entry for entry in rank_measures(experiment, names)}
    assert found == {
        "rising": {"rho": pytest.approx(1), "num": 5, "rho_whole": pytest.approx(1)},
        "falling": {"rho": pytest.approx(-1), "num": 5, "rho_whole": pytest.approx(-1)},
        "size": {"rho": pytest.approx(-0.71, abs=0.01), "num": 5, "rho_whole": None},
    }
    rows = measure_rows({"measures": rank_measures(experiment, names)})
    assert ["size", "", "-0.71", "5"] in rows


@pytest.mark.parametrize("scale", [FULL, QUICK])
def test_there_are_as_many_pairs_as_are_verified(scale: Scale) -> None:
    with pytest.raises(UserError, match="pairs 100000 of"):
        Scale(**scale.model_dump() | {"pairs": 100_000})


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
    assert len(run.stderr.splitlines()) == 1
    assert Trial(ReproduceConfig(miniature=True, facekit=tmp_path, models=tmp_path), "x", 3).seed == 3
