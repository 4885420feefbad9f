"""`translate` stopped, killed, refused: what is kept of a run, what goes on, and what is said of what cannot."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from d2r_fast.engine import shard_maker
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.verify import verify
from d2r_fast.translation import translate as command

from .fakedata import names_in, tree
from .fakemethod import FakeMethod, use_fake_method, write_weights
from .translating import configure, run, write_image


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_method(monkeypatch)


def test_a_failing_network_ends_the_run_in_one_line_and_it_goes_on_later(
    renders: Path, shift: Path, tmp_path: Path, shifted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = FakeMethod.run, 0

    def fail(self: FakeMethod, networks: Any, inputs: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise RunError("shift failed in torch (no memory)")
        return whole(self, networks, inputs, keys)

    with monkeypatch.context() as patch:
        patch.setattr(FakeMethod, "run", fail)
        with pytest.raises(
            RunError, match=r"shift failed .* at images 0000\d\d_\d{3} to .*the same command goes on"
        ):
            run(renders, shift, tmp_path / "out", batch_size=2)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert run(renders, shift, tmp_path / "out") == 0
    assert tree(tmp_path / "out") == tree(shifted)


def test_a_stopped_run_keeps_what_was_finished(
    renders: Path, shift: Path, tmp_path: Path, shifted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = shard_maker.write_shard, 1

    def stop(*arguments: Any, **settings: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return write(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(shard_maker, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            run(renders, shift, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("00000*")}
    assert len(before) == 4
    assert run(renders, shift, tmp_path / "out") == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("00000*")}
    assert tree(tmp_path / "out") == tree(shifted)


def test_a_killed_run_ends_in_the_same_bytes(renders: Path, shift: Path, tmp_path: Path) -> None:
    """SIGKILL at several moments, then a run that nothing disturbs; transkiller.py checks what is seen meanwhile."""
    script = Path(__file__).with_name("transkiller.py")
    done = subprocess.run(
        [sys.executable, str(script), str(renders), str(shift), str(tmp_path)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 3, "no run was slow enough to be killed"
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert verify(tmp_path / "killed").problems == []


def test_a_run_that_is_done_does_nothing_more(
    shifted: Path, renders: Path, shift: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMethod, "networks", lambda self, size: pytest.fail("opened networks for nothing"))
    assert run(renders, shift, shifted) == 0


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"size": 64}, {"image_format": "jpg"}, {"precision": "bf16"}]
)
def test_another_recipe_is_refused_and_named(
    shifted: Path, renders: Path, shift: Path, change: dict[str, Any]
) -> None:
    before = tree(shifted)
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=rf"recipe\.{name} is .*, given {json.dumps(value)}"):
        run(renders, shift, shifted, **change)
    assert tree(shifted) == before


def test_other_weights_or_another_source_are_refused_and_named(
    shifted: Path, renders: Path, patterns: Path, shift: Path, tmp_path: Path
) -> None:
    other = write_weights(tmp_path / "w.safetensors", seed=1)
    with pytest.raises(UserError, match=r"models\.vsait\.sha256 is"):
        run(renders, other, shifted)
    with pytest.raises(UserError, match=r"source\.name is .*source\.fingerprint is"):
        run(patterns, shift, shifted)


def test_a_generated_dataset_is_not_gone_on_with(
    renders: Path, shift: Path, shifted: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(shifted, tmp_path / "copy")
    document = json.loads((copy / "dataset.json").read_text())
    del document["kind"]
    (copy / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match='kind is absent, given "translated"'):
        run(renders, shift, copy)


def test_two_sources_of_one_name_are_refused(shift: Path, tmp_path: Path) -> None:
    for name in ("0.png", "0.jpg", "1.png"):
        write_image(tmp_path / "source" / "ann" / name, 32, 32)
    with pytest.raises(
        UserError, match=r"identity ann has 0\.jpg and 0\.png, which would both be called 0: rename"
    ):
        run(tmp_path / "source", shift, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "source", shift, tmp_path / "out", format="webdataset") == 0
    assert verify(tmp_path / "out").problems == []


def test_bad_places_are_refused_before_anything_is_made(renders: Path, shift: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "hollow" / "ann").mkdir(parents=True)
    out = tmp_path / "out"
    refused = [
        (lambda: run(tmp_path / "none", shift, out), "does not exist"),
        (lambda: run(tmp_path / "empty", shift, out), "holds no identity folders"),
        (lambda: run(tmp_path / "file", shift, out), "is a file"),
        (lambda: run(tmp_path / "hollow", shift, out), "not one image"),
        (lambda: run(renders, tmp_path / "none.pth", out), r"none\.pth is missing"),
        (lambda: run(renders, shift, renders / "out"), "lies in the source"),
        (lambda: run(renders, shift, tmp_path / "file"), "file"),
        (lambda: run(renders, shift, tmp_path / "other"), "other"),
        (lambda: run(renders, shift, out, identities=99), "has 4, give at most that"),
        (lambda: run(renders, shift, out, device="cuda:7"), "device 'cuda:7' is not there"),
        (lambda: run(renders, shift, out, backend="tensorrt"), "backend tensorrt"),
        (lambda: run(renders, shift, out, backend="onnxruntime", precision="bf16"), "bf16"),
    ]
    for attempt, message in refused:
        with pytest.raises(UserError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == ["empty", "file", "hollow", "other"]


def test_settings_of_another_method_are_refused(renders: Path, shift: Path, tmp_path: Path) -> None:
    for name, value, owner in (("w", 0.5, "codeformer"), ("nfe", 3, "unsb"), ("steps", 9, "ddim-inversion")):
        with pytest.raises(UserError, match=f"{name} belongs to .*{owner}.*, not to vsait"):
            configure(renders, shift, tmp_path, **{name: value})
    with pytest.raises(UserError, match=r"w = 1\.5: input should be less than or equal to 1"):
        configure(renders, shift, tmp_path, method="codeformer", w=1.5)


def test_a_folder_in_use_and_a_full_disk_are_one_line(
    renders: Path, shift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Dataset.open(tmp_path / "out", _document(renders, shift, tmp_path / "out"))
    with opened, pytest.raises(RunError, match="is in use by process"):
        run(renders, shift, tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Full())
    with pytest.raises(RunError, match=r"free"):
        run(renders, shift, tmp_path / "out")


class _Full:
    total, used, free = 10**9, 10**9, 0


def _document(renders: Path, shift: Path, out: Path) -> dict[str, Any]:
    config = command.settle(configure(renders, shift, out), "cpu")
    source, members = command.prepare(config)
    return command.describe(config, source, members, FakeMethod.open(shift, config))
