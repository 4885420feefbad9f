"""The train command: what it writes, what it survives, what it refuses, and that more processes change nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.embedder import open_embedder
from d2r_fast.recognition.evaluation.bin_file import write_bin
from d2r_fast.recognition.network_file import load_network
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.recognition.training.run_folder import read_metrics
from d2r_fast.recognition.training.train import train

from .conftest import PROGRAM
from .fakefaces import draw_patterns, pattern_pairs

SMALL: dict[str, Any] = {
    "backbone": "ir_18", "width": 0.0625, "embedding_dim": 16, "epochs": 2, "batch_size": 8, "learning_rate": 0.02,
    "device": "cpu", "onnx": False,
}  # fmt: skip
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    draw_patterns(folder, num_identities=8, images_per_identity=6)
    return folder


@pytest.fixture(scope="module")
def benchmarks(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    images, same = pattern_pairs(faces, num_pairs=40)
    write_bin(folder / "patterns.bin", images, same)
    return folder


def config(faces: Path, out: Path, **values: Any) -> TrainConfig:
    return TrainConfig(**SMALL | {"data": faces, "out": out} | values)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_is_a_network_and_its_story(faces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(config(faces, run)) == 0
    loaded = load_network(run)
    assert loaded.config.name == "ir_18"
    assert loaded.module(torch.zeros(1, 3, 112, 112)).shape == (1, 16)
    about = json.loads((run / "config.json").read_text())["about"]
    assert about["steps"] == 12
    assert about["data"]["num_identities"] == 8
    assert about["recipe"]["head"] == "adaface"
    steps = [line["step"] for line in read_metrics(run)]
    assert steps == [6, 12]
    assert (run / "_SUCCESS").exists()


def test_every_epoch_is_a_line_of_the_log(
    faces: Path, benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(faces, tmp_path / "run", benchmarks=benchmarks))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    accuracies = [line["accuracy"] for line in read_metrics(tmp_path / "run") if "accuracy" in line]
    assert lines == [
        f"epoch {number} of 2: loss {loss:.4g}, accuracy {100 * accuracy:.2f} %"
        for number, loss, accuracy in zip((1, 2), losses, accuracies, strict=True)
    ]


def test_a_finished_run_is_left_alone(faces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(faces, run, epochs=1))
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"}
    assert train(config(faces, run, epochs=1)) == 0
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"} == before


def test_seed_decides_the_weights(faces: Path, tmp_path: Path) -> None:
    for name, seed, threads in (("a", 0, 1), ("b", 0, 3), ("c", 1, 1)):
        train(config(faces, tmp_path / name, epochs=1, seed=seed, num_threads=threads))
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def flags(faces: Path, out: Path, **values: Any) -> list[str]:
    given = SMALL | {"data": faces, "out": out} | values
    onnx = "--onnx" if given.pop("onnx") else "--no-onnx"
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return ["train", onnx, *(part for pair in pairs for part in pair)]


@pytest.mark.parametrize("after_line", [3, 8])
def test_killed_and_resumed_ends_in_the_same_weights(
    faces: Path, benchmarks: Path, tmp_path: Path, after_line: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = {"checkpoint_every": 1, "dropout": 0.3, "epochs": 2, "benchmarks": benchmarks}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([PROGRAM, *flags(faces, whole, **settings)], check=True, env=environment)
    started = subprocess.Popen([PROGRAM, *flags(faces, cut, **settings)], env=environment)
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and len(read_metrics(cut)) < after_line:
        time.sleep(0.005)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL, "it was done before it was killed"
    assert not (cut / "_SUCCESS").exists()
    subprocess.run([PROGRAM, *flags(faces, cut, **settings)], check=True, env=environment)
    assert same_weights(whole, cut)
    assert same_weights(whole / "best", cut / "best")
    stories = [[{**line, "images_per_s": None} for line in read_metrics(run)] for run in (cut, whole)]
    assert stories[0] == stories[1]


def assert_moved_alike(found: Path, wanted: Path, *, tolerance: float) -> None:
    """See that a step took two networks of seed 0 to the same place, but for a share of how far it took them."""
    before = build_backbone(load_network(wanted).config, seed=0).state_dict()
    one, two = weights(found), weights(wanted)
    assert one.keys() == two.keys()
    for name, value in two.items():
        moved = (value - before[name]).abs().max().item() + 1e-2
        assert (one[name] - value).abs().max().item() <= tolerance * moved, name


def test_two_processes_train_the_step_of_one_with_the_whole_batch(faces: Path, tmp_path: Path) -> None:
    """To rounding, which AdaFace's margin and batch norm magnify from step to step; so one step is compared."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = {"epochs": 1, "batch_size": 48}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([PROGRAM, *flags(faces, one, **settings)], check=True, env=environment)
    subprocess.run([*TWO, PROGRAM, *flags(faces, two, **settings)], check=True, env=environment)
    assert_moved_alike(two, one, tolerance=1e-4)
    heads = [torch.load(run / "checkpoint.pt", weights_only=True)["weights"] for run in (one, two)]
    for name in ("head.kernel", "head.batch_mean", "head.batch_std"):
        torch.testing.assert_close(heads[1][name], heads[0][name], rtol=1e-4, atol=1e-5)
    (first,), (second,) = read_metrics(one), read_metrics(two)
    assert (first["step"], second["step"]) == (1, 1)
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert second["norm"] == pytest.approx(first["norm"], rel=1e-5)


def test_seeds_are_runs_with_mean_and_deviation(
    faces: Path, benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    train(config(faces, out, epochs=1, seeds=2, seed=5, benchmarks=benchmarks))
    assert sorted(path.name for path in out.iterdir()) == ["seed-5", "seed-6", "seeds.json"]
    row = json.loads((out / "seeds.json").read_text())["accuracy"]["patterns"]
    assert len(row["runs"]) == 2
    assert row["mean"] == pytest.approx(sum(row["runs"]) / 2)
    assert row["std"] == pytest.approx(abs(row["runs"][0] - row["runs"][1]) / 2**0.5)
    assert "over 2 seeds" in capsys.readouterr().out


def test_the_best_epoch_is_kept_and_training_given_up(faces: Path, benchmarks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(faces, run, epochs=30, benchmarks=benchmarks, early_stop=2, augment="none"))
    lines = [line for line in read_metrics(run) if "accuracies" in line]
    accuracies = [line["accuracy"] for line in lines]
    best = accuracies.index(max(accuracies))
    assert [line["epoch"] for line in lines] == list(range(best + 3))
    about = json.loads((run / "config.json").read_text())["about"]
    assert (about["kept"], about["steps"]) == (best, 6 * (best + 3))
    assert about["kept"] == json.loads((run / "best" / "config.json").read_text())["about"]["epoch"]
    assert same_weights(run, run / "best")
    assert all(0.0 <= line["accuracies"]["patterns"] <= 1.0 for line in lines)


def test_real_identities_are_added(faces: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    draw_patterns(real, num_identities=5, images_per_identity=3, seed=1)
    run = tmp_path / "run"
    train(config(faces, run, epochs=1, real=real, real_identities=2))
    data = json.loads((run / "run.json").read_text())["data"]
    assert (data["num_identities"], data["num_images"]) == (10, 54)


@pytest.mark.parametrize(
    ("momentum", "measured", "said"),
    [
        (0.0, False, "the loss is not a number at step \\d+: the last good checkpoint is"),
        (0.9, False, "a weight is not a number at step 1: there is no checkpoint"),
        (0.9, True, "a weight is not a number at step 1: there is no checkpoint"),
        (0.0, True, "an embedding is not a number at step 1: there is no checkpoint"),
    ],
)
def test_what_is_no_number_stops_the_run_and_no_such_checkpoint_is_written(
    faces: Path, benchmarks: Path, tmp_path: Path, momentum: float, measured: bool, said: str
) -> None:
    """Rates that blow the weights up after some steps, or in the first."""
    run = tmp_path / "run"
    rate = 1e18 if momentum == 0.0 else 3e38
    recipe = {"epochs": 30, "learning_rate": rate, "head": "cosface", "momentum": momentum, "batch_size": 48,
              "benchmarks": benchmarks if measured else None}  # fmt: skip
    with pytest.raises(RunError, match=said):
        train(config(faces, run, **recipe))
    if "last good" in said:
        state = torch.load(run / "checkpoint.pt", weights_only=True)
        assert all(
            torch.isfinite(value).all() for value in state["weights"].values() if value.is_floating_point()
        )
    else:
        assert not (run / "checkpoint.pt").exists()
    assert not (run / "_SUCCESS").exists()
    assert not (run / "model.safetensors").exists()


def test_unreadable_images_are_left_out_up_to_a_limit(faces: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt"
    draw_patterns(spoilt, num_identities=4, images_per_identity=6)
    for name in ("000/0.png", "003/5.png"):
        (spoilt / name).write_bytes((spoilt / name).read_bytes()[:100])
    assert train(config(spoilt, tmp_path / "run", epochs=1, max_unreadable=2)) == 0
    with pytest.raises(RunError, match=r"000/0\.png|003/5\.png"):
        train(config(spoilt, tmp_path / "other", epochs=1, max_unreadable=1))


def test_starts_from_another_network(faces: Path, tmp_path: Path) -> None:
    train(config(faces, tmp_path / "first", epochs=1))
    train(config(faces, tmp_path / "second", epochs=1, learning_rate=1e-12, init=tmp_path / "first", seed=3))
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(
        torch.allclose(first[n], second[n]) for n in first if n.endswith(("conv1.weight", "fc.weight"))
    )
    with pytest.raises(UserError, match=r"is another network, of width 0\.0625"):
        train(config(faces, tmp_path / "third", width=0.125, init=tmp_path / "first"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"real_identities": 3}, "give --real too"),
        ({"early_stop": 3}, "give --benchmarks"),
        ({"batch_size": 64}, "give a smaller batch size"),
        ({"identities": 9}, "it has 8"),
        ({"augment": "flip", "augment_probability": 0.1}, "leave it out"),
        ({"device": "cuda:7"}, "is not there"),
        ({"identities": 1}, "at least two"),
        ({"init": Path("nowhere")}, "nowhere"),
        ({"compile": True}, "give a width of 0.25"),
    ],
)
def test_refuses(faces: Path, tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        train(config(faces, tmp_path / "run", **values))
    assert not (tmp_path / "run").exists()


def test_refuses_another_recipe_in_the_same_folder(faces: Path, tmp_path: Path) -> None:
    train(config(faces, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match=r"recipe\.learning_rate is 0\.02, given 0\.5"):
        train(config(faces, tmp_path / "run", epochs=1, learning_rate=0.5))


def test_benchmarks_are_looked_at_before_training(faces: Path, benchmarks: Path, tmp_path: Path) -> None:
    images, same = pattern_pairs(faces, num_pairs=20)
    for name, spoilt, labels in (
        ("damaged", [images[0][:50], *images[1:]], same),
        ("few", images[:10], same[:5]),
        ("alike", images, same | True),
    ):
        folder = tmp_path / name
        folder.mkdir()
        write_bin(folder / "lfw.bin", spoilt, labels)
        with pytest.raises(UserError, match=r"lfw\.bin"):
            train(config(faces, tmp_path / "run", benchmarks=folder))
    assert not (tmp_path / "run").exists()
    train(config(faces, tmp_path / "run", epochs=1, benchmarks=benchmarks))
    with pytest.raises(UserError, match=r"benchmarks"):
        train(config(faces, tmp_path / "run", epochs=1))


def test_a_run_of_one_seed_is_not_a_folder_of_seeds(faces: Path, tmp_path: Path) -> None:
    train(config(faces, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match="give --seeds another folder"):
        train(config(faces, tmp_path / "run", epochs=1, seeds=2))


def test_a_damaged_best_network_of_another_try_is_not_kept(
    faces: Path, benchmarks: Path, tmp_path: Path
) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    settings = {"epochs": 1, "benchmarks": benchmarks}
    train(config(faces, whole, **settings))
    shutil.copytree(whole, again)
    for name in ("_SUCCESS", "checkpoint.pt", "model.safetensors"):
        (again / name).unlink()
    (again / "best" / "model.safetensors").write_bytes(b"of another try")
    train(config(faces, again, **settings))
    assert same_weights(whole, again)


@pytest.mark.parametrize(
    "values",
    [{"clip_norm": 0.5}, {"precision": "bf16"}, {"sampling": "balanced"}, {"head": "arcface"}, {"decay_norms": True},
     {"layout": "adaface"}, {"augment": "digiface"}, {"sync_batch_norm": False}],
    ids=lambda values: next(iter(values)),
)  # fmt: skip
def test_every_choice_trains(faces: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    train(config(faces, tmp_path / "run", epochs=1, **values))
    (line,) = read_metrics(tmp_path / "run")
    assert 0 < line["loss"] < 200
    assert load_network(tmp_path / "run").module(torch.zeros(2, 3, 112, 112)).isfinite().all()


@pytest.mark.slow
def test_compiled_trains_as_eager(faces: Path, tmp_path: Path) -> None:
    for name, extra in (("eager", []), ("compiled", ["--compile"])):
        subprocess.run(
            [PROGRAM, *flags(faces, tmp_path / name, epochs=1, batch_size=48, width=0.25), *extra], check=True
        )
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    before = build_backbone(load_network(tmp_path / "eager").config, seed=0).state_dict()
    learnt = [name for name in eager if name.endswith(("weight", "bias"))]
    apart, moved = (
        torch.cat([(eager[name] - other[name]).flatten() for name in learnt]).norm()
        for other in (compiled, before)
    )
    assert apart < 0.01 * moved


def test_two_processes_share_what_they_cannot_read_measure_once_and_resume(
    faces: Path, benchmarks: Path, tmp_path: Path
) -> None:
    spoilt, run = tmp_path / "spoilt", tmp_path / "run"
    draw_patterns(spoilt, num_identities=8, images_per_identity=6)
    for name in ("000/0.png", "003/5.png", "006/2.png"):
        (spoilt / name).write_bytes((spoilt / name).read_bytes()[:100])
    settings = {
        "epochs": 3,
        "max_unreadable": 3,
        "benchmarks": benchmarks,
        "batch_size": 16,
        "checkpoint_every": 1,
    }
    command = [*TWO, PROGRAM, *flags(spoilt, run, **settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and len(read_metrics(run)) < 5:
        time.sleep(0.005)
    leader = int((run / ".lock").read_text().split()[1])
    os.kill(leader, signal.SIGKILL)
    assert started.wait() != 0
    assert not (run / "_SUCCESS").exists(), "it was done before it was killed"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = read_metrics(run)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 10))
    assert [line["step"] for line in lines if "accuracies" in line] == [3, 6, 9]
    assert [line["unreadable"] for line in lines if "loss" in line][2:] == [
        3
    ] * 7  # an epoch shows all of them
    (said,) = [line for line in done.stderr.splitlines() if "unreadable images were left out" in line]
    assert said.startswith("3 unreadable")
    assert all(name in said for name in ("000/0.png", "003/5.png", "006/2.png"))


def test_of_two_processes_one_says_what_is_wrong(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    command = [*TWO, PROGRAM, *flags(faces, tmp_path / "run")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("d2r-fast:")] == [
        f"d2r-fast: out {tmp_path / 'run'} holds thesis.tex and no run.json, so it is no training run of d2r-fast: "
        "give an empty folder"
    ]
    assert "trainer.py" not in done.stderr


def test_one_identity_is_not_enough(faces: Path, tmp_path: Path) -> None:
    draw_patterns(tmp_path / "one", num_identities=1, images_per_identity=20)
    with pytest.raises(UserError, match="at least two"):
        train(config(tmp_path / "one", tmp_path / "run"))


def test_tensorboard_shows_the_metrics(faces: Path, benchmarks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(faces, run, epochs=2, tensorboard=True, benchmarks=benchmarks))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    wanted = [(line["step"], line["loss"]) for line in read_metrics(run) if "loss" in line]
    assert [(event.step, pytest.approx(event.value)) for event in events.Scalars("loss")] == wanted
    assert [event.step for event in events.Scalars("accuracies/patterns")] == [6, 12]


def test_the_network_serves_the_pipeline_as_onnx(faces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(faces, run, epochs=1, layout="adaface", onnx=True))
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    from_onnx = Recogniser.load(run / "recogniser.onnx")(crops)
    from_torch = open_embedder(run, device="cpu")(crops)
    np.testing.assert_allclose(from_onnx, from_torch, rtol=1e-4, atol=1e-4)
