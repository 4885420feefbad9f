"""A run's folder: whose it is, what survives, what is refused."""

import json
from pathlib import Path

import pytest
import torch

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.recognition.training.run_folder import RunFolder, read_checkpoint, read_metrics

DOCUMENT = {"recipe": {"seed": 0, "milestones": [1, 2]}, "data": {"fingerprint": "a"}}


def test_makes_and_reopens(tmp_path: Path) -> None:
    for _ in range(2):
        with RunFolder.open(tmp_path / "a" / "run", DOCUMENT) as folder:
            assert not folder.finished
    assert json.loads((tmp_path / "a" / "run" / "run.json").read_text()) == DOCUMENT


def test_refuses_another_run_and_names_what_differs(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, DOCUMENT).__exit__(None, None, None)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=r"recipe\.seed is 0, given 1"):
        RunFolder.open(tmp_path, {**DOCUMENT, "recipe": {"seed": 1, "milestones": [1, 2]}})
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        RunFolder.open(tmp_path, DOCUMENT)
    with pytest.raises(UserError, match="is a file"):
        RunFolder.open(tmp_path / "thesis.tex", DOCUMENT)


def test_refuses_a_second_process(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, DOCUMENT), pytest.raises(RunError, match="is in use by process"):
        RunFolder.open(tmp_path, DOCUMENT)


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, DOCUMENT) as folder:
        for step in (10, 20, 30):
            folder.log(step=step, loss=1.0)
        with (tmp_path / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 15, "lo')  # a kill cut it short
        folder.begin(20)
        folder.log(step=30, loss=2.0)
    assert read_metrics(tmp_path) == [
        {"step": 10, "loss": 1.0}, {"step": 20, "loss": 1.0}, {"step": 30, "loss": 2.0},
    ]  # fmt: skip


def test_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    state = {"weights": {"w": torch.arange(5.0)}, "step": 7}
    with RunFolder.open(tmp_path, DOCUMENT) as folder:
        assert read_checkpoint(folder.checkpoint) is None
        folder.save(state)
        found = read_checkpoint(folder.checkpoint)
    assert found is not None
    assert found["step"] == 7
    assert torch.equal(found["weights"]["w"], state["weights"]["w"])


@pytest.mark.parametrize("keep", [0, 1, 100, -10])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"weights": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        read_checkpoint(path)
