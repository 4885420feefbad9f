"""Whose folder the demo takes, and what it puts there: by a package of hardly any networks, and no run."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d2r_fast.engine import demo
from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.demo import run_demo
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.models.card import CARD, write_card
from d2r_fast.engine.models.miniature import pack_tensors

from .fakedata import tree

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What comes with the package; nothing is generated of it."""
    folder = tmp_path / "package"
    write_packed(folder / "models", 0.5)
    for person in ("0", "1"):
        (folder / "renders" / person).mkdir(parents=True)
        (folder / "renders" / person / "0.png").write_text(f"render of {person}")
    monkeypatch.setattr(demo, "MINIATURE", folder)
    monkeypatch.setattr(demo, "generate", lambda config: 0)
    monkeypatch.setattr(demo, "run_verify", lambda dataset: 0)
    monkeypatch.setattr(demo, "write_report", lambda dataset: dataset / "report.html")
    return folder


def write_packed(folder: Path, value: float) -> None:
    (folder / WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
    written = pack_tensors(folder / WEIGHTS, {"conv.weight": np.full((2, 3), value, np.float32)})
    write_card(folder, {"kind": "miniature", "recipe": {"seed": 0}, "files": {WEIGHTS: written.entry()}})


def test_networks_and_renders_are_written_once(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[GenerateConfig] = []
    monkeypatch.setattr(demo, "generate", lambda config: asked.append(config) or 0)
    out = tmp_path / "out"
    assert run_demo(out) == 0
    first = tree(out)
    assert set(first) == {"renders/0/0.png", "renders/1/0.png", f"models/{WEIGHTS}", f"models/{CARD}"}
    assert (out / "renders" / "1" / "0.png").read_text() == "render of 1"
    assert asked[0].models == out / "models"
    assert asked[0].source == out / "renders"
    assert asked[0].clip_offset == package / "offset.safetensors"

    (out / "renders" / "1" / "0.png").unlink()
    (out / "renders" / "0" / "0.png").write_text("mine")
    assert run_demo(out) == 0
    assert (out / "renders" / "0" / "0.png").read_text() == "mine", "what is there is left"
    again = tree(out)
    assert {name for name in first if again[name] != first[name]} == {"renders/0/0.png"}


def test_a_call_that_was_killed_at_the_networks_is_gone_on_with(package: Path, tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    left = tmp_path / "out" / f".models.{killed.pid}.tmp"
    left.mkdir(parents=True)
    (left / "half.safetensors").write_text("half")
    assert run_demo(tmp_path / "out") == 0
    assert not left.exists()
    assert (tmp_path / "out" / "models" / CARD).is_file()


@pytest.mark.parametrize("card", [None, {"kind": "random", "files": {}}, {"kind": "miniature", "files": {}}])
def test_a_folder_of_other_networks_is_refused(
    package: Path, tmp_path: Path, card: dict[str, object] | None
) -> None:
    models = tmp_path / "out" / "models"
    models.mkdir(parents=True)
    if card is not None:
        (models / CARD).write_text(json.dumps(card))
    before = tree(tmp_path / "out")
    with pytest.raises(UserError, match=r"other networks than this demo's: give an empty or new --out"):
        run_demo(tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_a_demo_of_the_same_recipe_but_other_weights_is_refused(package: Path, tmp_path: Path) -> None:
    assert run_demo(tmp_path / "out") == 0
    write_packed(package / "models", 0.25)
    with pytest.raises(UserError, match="other networks"):
        run_demo(tmp_path / "out")


def test_a_full_disk_is_said_and_leaves_no_part_of_a_render(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run_demo(out) == 0
    before = tree(out)
    (out / "renders" / "1" / "0.png").unlink()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="the disk is full"):
            run_demo(out)
    assert tree(out).keys() == before.keys() - {"renders/1/0.png"}
    assert run_demo(out) == 0
    assert tree(out) == before
