"""train-transfer: what it writes, what it survives, what it refuses."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.sheet import GAP
from d2r_fast.recognition.training.run_folder import RunFolder, read_metrics
from d2r_fast.translation.checkpoint import read_weights
from d2r_fast.translation.gan.decent import DecentGenerator
from d2r_fast.translation.training.config import TransferConfig
from d2r_fast.translation.training.train_transfer import train_transfer

from .faketransfer import SMALL, command, config, draw_pair, story


def generator(run: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(run / "generator.pth", weights_only=True)
    return tensors


def same(one: Path, other: Path) -> bool:
    first, second = generator(one), generator(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_is_a_generator_and_its_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_pair(tmp_path)
    run = tmp_path / "run"
    assert train_transfer(config(tmp_path, run, pictures_every=3)) == 0
    assert (run / "_SUCCESS").exists()
    for path in (run, run / "generator.pth"):
        weights = read_weights(path, method="decent")
        network = DecentGenerator.from_tensors(weights.tensors, weights.path)
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    lines = list(story(run))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert set(lines[0]["loss"]) == {"nll_A", "nll_B", "D_fake", "D_real", "G_GAN", "idt", "var", "G"}
    assert lines[0]["learning_rate"] == {"generator": 2e-4, "discriminator": 2e-4, "flows": 1e-3}
    assert sorted(path.name for path in run.glob("grid-*.png")) == ["grid-0000003.png", "grid-0000006.png"]
    document = json.loads((run / "run.json").read_text())
    assert document["recipe"]["method"] == "decent"
    assert document["source"]["num_images"] == 6
    assert "6 source and 5 target images, labels unused" in capsys.readouterr().err


def test_a_grid_is_source_translated_and_target(tmp_path: Path) -> None:
    draw_pair(tmp_path, num_source=8, num_target=4, size=32)
    run = tmp_path / "run"
    train_transfer(config(tmp_path, run, steps=1))
    page = np.asarray(Image.open(run / "grid-0000001.png"))
    step = 32 + GAP
    assert page.shape == (4 * step - GAP, 3 * step - GAP, 3)
    source = np.asarray(Image.open(tmp_path / "renders" / "1" / "0.png"))
    target = np.asarray(Image.open(tmp_path / "photos" / "1.png"))
    assert np.array_equal(page[step : step + 32, :32], source)
    assert np.array_equal(page[step : step + 32, 2 * step :], target)
    weights = read_weights(run, method="decent")
    network = DecentGenerator.from_tensors(weights.tensors, weights.path)
    with torch.no_grad():
        images = torch.tensor(source).permute(2, 0, 1)[None].float() / 127.5 - 1
        translated = (network(images)[0].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(page[step : step + 32, step : step + 32].astype(float) - translated.numpy()).max() <= 1


def test_training_brings_the_images_nearer(tmp_path: Path) -> None:
    """The target images are redder; some dozens of steps must find that out."""
    draw_pair(tmp_path, num_source=8, num_target=8)
    run = tmp_path / "run"
    train_transfer(config(tmp_path, run, steps=30, batch_size=4, learning_rate=4e-3, log_every=5))
    losses = [line["loss"] for line in story(run)]
    assert losses[-1]["idt"] < 0.6 * losses[0]["idt"]
    assert losses[-1]["nll_A"] < losses[0]["nll_A"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, in this process as in one that is started with OMP_NUM_THREADS=1."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_killed_and_resumed_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Killed between two checkpoints, so that a step is done twice."""
    draw_pair(tmp_path)
    (tmp_path / "renders" / "1" / "0.png").write_bytes(b"unreadable")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_transfer(config(tmp_path, whole, steps=16, average=0.9))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(command(tmp_path, cut, steps=16, average=0.9), env=environment)
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and len(read_metrics(cut)) < 5:
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL, "it was done before it was killed"
    assert not (cut / "_SUCCESS").exists()
    assert (cut / "checkpoint.pt").exists()
    train_transfer(config(tmp_path, cut, steps=16, average=0.9))
    assert same(whole, cut)
    assert list(story(whole)) == list(story(cut))
    assert list(story(cut))[-1]["unreadable"] == 1
    grids = [run / "grid-0000016.png" for run in (whole, cut)]
    assert grids[0].read_bytes() == grids[1].read_bytes()


def test_a_finished_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_pair(tmp_path)
    run = tmp_path / "run"
    train_transfer(config(tmp_path, run, steps=2))
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"}
    assert train_transfer(config(tmp_path, run, steps=2)) == 0
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"} == before
    assert "is finished already" in capsys.readouterr().err


def test_seed_decides_and_threads_do_not(tmp_path: Path) -> None:
    draw_pair(tmp_path)
    for name, seed, threads in (("a", 0, 1), ("b", 0, 3), ("c", 1, 1)):
        train_transfer(config(tmp_path, tmp_path / name, steps=2, seed=seed, num_threads=threads))
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    draw_pair(tmp_path)
    run = tmp_path / "run"
    train_transfer(config(tmp_path, run, steps=2))
    with pytest.raises(UserError, match=r"holds another run: .*lambda_idt"):
        train_transfer(config(tmp_path, run, steps=2, lambda_idt=3.0))
    (tmp_path / "photos" / "0.png").rename(tmp_path / "photos" / "new.png")
    with pytest.raises(UserError, match=r"holds another run: .*target"):
        train_transfer(config(tmp_path, run, steps=2))


def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path: Path) -> None:
    draw_pair(tmp_path)
    with pytest.raises(RunError, match=r"is not a number at step \d+: .*lower learning_rate") as caught:
        train_transfer(config(tmp_path, tmp_path / "run", steps=40, learning_rate=1e36, log_every=1))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "generator.pth").exists()


def test_a_target_smaller_than_a_batch_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    draw_pair(tmp_path, num_target=3)
    with pytest.raises(UserError, match=r"target .* has 3 images, and a step takes 4"):
        train_transfer(config(tmp_path, tmp_path / "run", batch_size=4))
    assert not (tmp_path / "run").exists()


def test_a_wrong_vgg_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """So that the same command with the right one goes on."""
    draw_pair(tmp_path)
    wrong = tmp_path / "vgg.pth"
    torch.save({"classifier.0.weight": torch.zeros(1)}, wrong)
    settings = SMALL | {"method": "vsait", "vgg": wrong, "hypervector_dim": 16}
    del settings["ndf"]
    places = {"source": tmp_path / "renders", "target": tmp_path / "photos", "out": tmp_path / "run"}
    with pytest.raises(UserError, match=r"holds no features\.N\.weight: give torchvision's vgg19"):
        train_transfer(TransferConfig(**settings, **places))
    assert not (tmp_path / "run").exists()


def test_missing_folders_are_refused(tmp_path: Path) -> None:
    draw_pair(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        train_transfer(config(tmp_path, tmp_path / "run", source=tmp_path / "nothing"))


def test_tensorboard_has_losses_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    draw_pair(tmp_path)
    run = tmp_path / "run"
    train_transfer(config(tmp_path, run, steps=2, tensorboard=True))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("loss/idt")] == [1, 2]
    assert [picture.step for picture in events.Images("source, translated, target")] == [2]


def test_bfloat16_trains(tmp_path: Path) -> None:
    draw_pair(tmp_path)
    train_transfer(config(tmp_path, tmp_path / "run", steps=2, precision="bf16"))
    assert all(torch.isfinite(value).all() for value in generator(tmp_path / "run").values())


@pytest.mark.usefixtures("one_thread")
def test_a_method_that_takes_two_sources_trains_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UNSB, stopped by a full disk at its second checkpoint."""
    draw_pair(tmp_path)
    unsb = {"method": "unsb", "steps": 4, "num_patches": 16}
    train_transfer(config(tmp_path, tmp_path / "whole", **unsb))
    save, saved = RunFolder.save, []

    def fails_later(self: RunFolder, state: dict[str, Any]) -> None:
        saved.append(state["step"])
        if len(saved) == 2:
            raise RunError("the disk is full")
        save(self, state)

    monkeypatch.setattr(RunFolder, "save", fails_later)
    with pytest.raises(RunError, match="the disk is full"):
        train_transfer(config(tmp_path, tmp_path / "cut", **unsb))
    monkeypatch.undo()
    train_transfer(config(tmp_path, tmp_path / "cut", **unsb))
    assert saved == [2, 4]
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert list(story(tmp_path / "whole")) == list(story(tmp_path / "cut"))
    assert read_weights(tmp_path / "cut", method="unsb").tensors
