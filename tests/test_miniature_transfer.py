"""The small realism transfer: its two domains, its camera, and the experiment that runs on them."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from d2r_fast.bench.miniature import arithmetic, experiment
from d2r_fast.bench.miniature.arithmetic import precision_of
from d2r_fast.bench.miniature.domains import draw, flash, render_domain
from d2r_fast.bench.miniature.experiment import made_of, settle
from d2r_fast.bench.miniature.head import Head
from d2r_fast.bench.miniature.sensor import photograph
from d2r_fast.bench.miniature.transfer import (
    FIRST,
    HELD,
    OWN,
    TransferExperiment,
    judges_of,
    main,
    settings_of,
)
from d2r_fast.bench.miniature.transfer_page import BEGIN, END, averages, read_latest, render_page
from d2r_fast.bench.miniature.transfer_results import LEAST_FALL, LEAST_KEPT, measure_distances
from d2r_fast.bench.miniature.world import stage
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.sheet import GAP

ROOT = Path(__file__).resolve().parents[1]


def keys(num: int) -> torch.Tensor:
    return torch.stack([torch.arange(num) + 5, torch.zeros(num, dtype=torch.int64)], 1)


def test_a_photograph_is_a_function_of_its_light_and_its_key() -> None:
    light = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = photograph(light, keys(4))
    assert whole.shape == (4, 32, 32, 3)
    assert whole.dtype == torch.uint8
    assert torch.equal(photograph(light[2:3], keys(4)[2:3])[0], whole[2])
    again = photograph(light, keys(4) + torch.tensor([0, 1]))
    assert (again != whole).float().mean() > 0.3


def test_the_camera_is_warm_and_noisy_and_loses_light_in_the_corners() -> None:
    grey = photograph(torch.full((16, 3, 64, 64), 0.4), keys(16)).float()
    red, green, blue = grey.mean((0, 1, 2)).tolist()
    assert red > green > blue
    assert red - blue > 30
    middle, corner = grey[:, 28:36, 28:36], grey[:, :6, :6]
    assert middle.mean() - corner.mean() > 20
    assert 0.4 < middle.std((1, 2)).mean() < 12
    black = photograph(torch.zeros(1, 3, 32, 32), keys(1)).float()
    assert 5 < black.mean() < 30, "the maker's look lifts black"


def test_pictures_depend_on_domain_seed_identity_and_image_alone(head: Head) -> None:
    pictures = [(3, 0), (3, 1), (7, 0)]
    for domain in ("renders", "photographs"):
        whole = draw(domain, head, pictures, seed=0)
        assert whole.shape == (3, 64, 64, 3)
        assert torch.equal(draw(domain, head, pictures[1:2], seed=0)[0], whole[1])
        assert (draw(domain, head, pictures[:1], seed=1)[0] != whole[0]).any()


def test_the_domains_are_far_apart_and_the_halves_of_one_are_not(head: Head) -> None:
    def many(domain: str, first: int) -> np.ndarray:
        wanted = [(first + number, 0) for number in range(48)]
        parts = [draw(domain, head, wanted[i : i + 8], seed=0) for i in range(0, 48, 8)]  # type: ignore[arg-type]
        return torch.cat(parts).numpy()

    sets = {"untranslated": many("renders", 0), "own photographs": many("photographs", 0)}
    others = many("photographs", 1000)
    found = measure_distances(sets, others, [str(n) for n in range(48)], side=64, seed=0)
    assert found["distance"]["untranslated"] > 0.5
    assert abs(found["distance_of_halves"]["mean"]) < 0.1 * found["distance"]["untranslated"]
    assert found["distance_fallen_by"]["own photographs"] > 0.7


def test_a_flash_is_nearer_to_the_lens() -> None:
    shot = replace(stage(0, 1, 0), light=(1.0, 0.0, 0.0))
    flashed = flash(shot)
    assert flashed.light[2] > shot.light[2] + 0.05
    assert np.isclose(np.linalg.norm(flashed.light), 1)
    assert flashed.light_colour > shot.light_colour


def test_rendering_leaves_alone_what_is_there(facekit: Path, tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "0.png").write_text("mine")
    render_domain("renders", facekit, tmp_path, identities=range(2), images_per_identity=1)
    assert (tmp_path / "0" / "0.png").read_text() == "mine"
    with Image.open(tmp_path / "1" / "0.png") as picture:
        assert picture.size == (64, 64)


def test_nobody_is_in_two_domains() -> None:
    most = TransferExperiment.model_fields["identities"].metadata
    limit = next(item.lt for item in most if hasattr(item, "lt"))
    firsts = sorted(set(FIRST.values()))
    assert all(later - earlier >= limit for earlier, later in pairwise(firsts))
    assert FIRST[OWN] == FIRST[HELD], "the same people, who no method has seen"


def test_a_folder_of_another_experiment_is_refused(tmp_path: Path) -> None:
    def begin(out: Path, **settings: Any) -> None:
        settle(out, settings_of(TransferExperiment(facekit=tmp_path, out=out, **settings)))

    begin(tmp_path / "out")
    begin(tmp_path / "out", methods=("decent",))
    with pytest.raises(UserError, match="holds an experiment with steps 8000"):
        begin(tmp_path / "out", steps=5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UserError, match="holds other things"):
        begin(tmp_path / "full")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".settings.json.4711.tmp").write_text("{")
    begin(tmp_path / "killed")


def test_another_head_and_another_arithmetic_are_another_experiment(
    facekit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = made_of(facekit, "cpu")
    assert ours.keys() == {"head", "device"}
    monkeypatch.setattr(experiment, "sha256_file", lambda path: "0" * 64)
    assert made_of(facekit, "cpu")["head"] != ours["head"]
    here = precision_of("cpu")
    monkeypatch.setattr(arithmetic, "multiplies_bf16", lambda: here == "fp32")
    assert precision_of("cpu") != here


def test_every_recogniser_is_asked_by_a_name_of_its_own(tmp_path: Path) -> None:
    others = (tmp_path / "foamliu.onnx", tmp_path / "run")
    experiment = TransferExperiment(facekit=tmp_path, out=tmp_path / "out", recognisers=others)
    assert judges_of(experiment) == {
        "recogniser": tmp_path / "out" / "recogniser", "foamliu": others[0], "run": others[1],
    }  # fmt: skip


@pytest.mark.parametrize("names", ["run/recogniser.onnx", "a/one.onnx,b/one.onnx"])
def test_two_recognisers_of_one_name_are_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    out = tmp_path / "out"
    assert main([str(tmp_path), "--out", str(out), "--recognisers", names]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"recogniser {names.split(',')[-1]} has the name of another one" in line
    assert not out.exists()


def test_the_page_says_what_was_measured() -> None:
    """The tables are the saved document's, whose sheet is there, and what was asked for is met in it."""
    document, sheet = read_latest(ROOT / "bench" / "results")
    page = (ROOT / "docs" / "transfer.md").read_text()
    table = page.partition(BEGIN)[2].partition(END)[0]
    assert table.strip() == render_page(document, f"../bench/results/{sheet.name}").strip(), (
        "run python -m d2r_fast.bench.miniature.transfer_page docs/transfer.md bench/results"
    )
    assert sheet.is_file()
    assert '"/' not in json.dumps(document), "a path of the machine"
    fallen, kept = averages(document, "unsb in 1 step")
    own, _ = kept["recogniser"]
    assert fallen >= LEAST_FALL
    assert own >= LEAST_KEPT


def test_no_results_no_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no transfer-\*\.json: run"):
        read_latest(tmp_path)


@pytest.mark.slow
def test_the_experiment_runs_from_nothing_and_again(
    facekit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        f"{facekit} --out {tmp_path / 'out'} --save {tmp_path / 'saved'} --identities 34 --images 2 --epochs 1 "
        "--held-identities 4 --steps 3 --ngf 4 --ndf 4 --width 0.1 --device cpu --methods decent,unsb --trainings 1"
    ).split()
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(document["distance"]) == {
        "untranslated",
        "own photographs",
        "decent, seed 0",
        "unsb in 1 step, seed 0",
        "unsb in 5 steps, seed 0",
    }
    assert document["identity"]["recogniser"]["sets"]["untranslated"]["own"] == pytest.approx(1, abs=1e-5)
    (saved,) = (tmp_path / "saved").glob("transfer-*.json")
    assert json.loads(saved.read_text()) == document
    with Image.open(next((tmp_path / "saved").glob("transfer-*-sheet.png"))) as sheet:
        assert sheet.height == 2 * (6 * 64 + 5 * GAP)
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["distance"] == document["distance"], "a second run goes on where the first ended"
