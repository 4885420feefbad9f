"""The experiment, its small version: from a head and the networks of the package to a table that says what came out."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.bench.miniature.reproduce.sets import DIGI2REAL, MAIN, REAL

from .conftest import PROGRAM


@pytest.fixture(scope="module")
def reproduced(facekit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reproduce") / "out"
    run_quick(facekit, out)
    return out


def run_quick(facekit: Path, out: Path) -> str:
    run = subprocess.run(
        [PROGRAM, "reproduce", "--miniature", "--quick", "--facekit", facekit, "--out", out, "--device", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def read(out: Path) -> Any:
    return json.loads((out / "reproduced.json").read_text())


def test_digi2real_is_better_to_train_on_than_renders(reproduced: Path) -> None:
    found = read(reproduced)
    assert found["over_renders"][DIGI2REAL]["mean"] > 0
    assert found["over_renders"][REAL]["mean"] > 0, "or there is nothing to be gained"


def test_every_set_is_as_large_as_it_should_be(reproduced: Path) -> None:
    sets = read(reproduced)["sets"]
    wanted = read(reproduced)["settings"]
    for name in MAIN:
        assert sets[name]["identities"] == wanted["identities"]
        assert sets[name]["images"] >= 0.9 * wanted["identities"] * wanted["images"]


def test_the_page_shows_it(reproduced: Path) -> None:
    page = (reproduced / "reproduced.html").read_text()
    assert page.count("data:image/png") == 2
    assert "Table 5" in page


def test_a_finished_experiment_is_told_again(facekit: Path, reproduced: Path) -> None:
    before = read(reproduced)["sets"]
    last = run_quick(facekit, reproduced).splitlines()[-1]
    assert last.startswith("Digi2Real")
    assert read(reproduced)["sets"] == before
