"""The train command: what it writes, what it survives, what it refuses."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.embedder import open_embedder
from d2r_fast.recognition.evaluation.bin_file import write_bin
from d2r_fast.recognition.network_file import load_network
from d2r_fast.recognition.training.run_folder import read_metrics
from d2r_fast.recognition.training.train import train

from .conftest import PROGRAM
from .fakefaces import draw_patterns, pattern_pairs
from .fakeruns import config, flags, same_weights, weights


def test_a_run_is_a_network_and_its_story(patterns: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(config(patterns, run)) == 0
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
    patterns: Path, pattern_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config(patterns, tmp_path / "run", benchmarks=pattern_sets))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    accuracies = [line["accuracy"] for line in read_metrics(tmp_path / "run") if "accuracy" in line]
    assert lines == [
        f"epoch {number} of 2: loss {loss:.4g}, accuracy {100 * accuracy:.2f} %"
        for number, loss, accuracy in zip((1, 2), losses, accuracies, strict=True)
    ]


def test_a_finished_run_is_left_alone(patterns: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(patterns, run, epochs=1))
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"}
    assert train(config(patterns, run, epochs=1)) == 0
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"} == before


def test_seed_decides_the_weights(patterns: Path, tmp_path: Path) -> None:
    for name, seed, threads in (("a", 0, 1), ("b", 0, 3), ("c", 1, 1)):
        train(config(patterns, tmp_path / name, epochs=1, seed=seed, num_threads=threads))
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_seeds_are_runs_with_mean_and_deviation(
    patterns: Path, pattern_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    train(config(patterns, out, epochs=1, seeds=2, seed=5, benchmarks=pattern_sets))
    assert sorted(path.name for path in out.iterdir()) == ["seed-5", "seed-6", "seeds.json"]
    row = json.loads((out / "seeds.json").read_text())["accuracy"]["patterns"]
    assert len(row["runs"]) == 2
    assert row["mean"] == pytest.approx(sum(row["runs"]) / 2)
    assert row["std"] == pytest.approx(abs(row["runs"][0] - row["runs"][1]) / 2**0.5)
    assert "over 2 seeds" in capsys.readouterr().out


def test_the_best_epoch_is_kept_and_training_given_up(
    patterns: Path, pattern_sets: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(config(patterns, run, epochs=30, benchmarks=pattern_sets, early_stop=2, augment="none"))
    lines = [line for line in read_metrics(run) if "accuracies" in line]
    accuracies = [line["accuracy"] for line in lines]
    best = accuracies.index(max(accuracies))
    assert [line["epoch"] for line in lines] == list(range(best + 3))
    about = json.loads((run / "config.json").read_text())["about"]
    assert (about["kept"], about["steps"]) == (best, 6 * (best + 3))
    assert about["kept"] == json.loads((run / "best" / "config.json").read_text())["about"]["epoch"]
    assert same_weights(run, run / "best")
    assert all(0.0 <= line["accuracies"]["patterns"] <= 1.0 for line in lines)


def test_real_identities_are_added(patterns: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    draw_patterns(real, num_identities=5, images_per_identity=3, seed=1)
    run = tmp_path / "run"
    train(config(patterns, run, epochs=1, real=real, real_identities=2))
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
    patterns: Path, pattern_sets: Path, tmp_path: Path, momentum: float, measured: bool, said: str
) -> None:
    """Rates that blow the weights up after some steps, or in the first."""
    run = tmp_path / "run"
    rate = 1e18 if momentum == 0.0 else 3e38
    recipe = {"epochs": 30, "learning_rate": rate, "head": "cosface", "momentum": momentum, "batch_size": 48,
              "benchmarks": pattern_sets if measured else None}  # fmt: skip
    with pytest.raises(RunError, match=said):
        train(config(patterns, run, **recipe))
    if "last good" in said:
        state = torch.load(run / "checkpoint.pt", weights_only=True)
        assert all(
            torch.isfinite(value).all() for value in state["weights"].values() if value.is_floating_point()
        )
    else:
        assert not (run / "checkpoint.pt").exists()
    assert not (run / "_SUCCESS").exists()
    assert not (run / "model.safetensors").exists()


def test_unreadable_images_are_left_out_up_to_a_limit(patterns: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt"
    draw_patterns(spoilt, num_identities=4, images_per_identity=6)
    for name in ("000/0.png", "003/5.png"):
        (spoilt / name).write_bytes((spoilt / name).read_bytes()[:100])
    assert train(config(spoilt, tmp_path / "run", epochs=1, max_unreadable=2)) == 0
    with pytest.raises(RunError, match=r"000/0\.png|003/5\.png"):
        train(config(spoilt, tmp_path / "other", epochs=1, max_unreadable=1))


def test_starts_from_another_network(patterns: Path, tmp_path: Path) -> None:
    train(config(patterns, tmp_path / "first", epochs=1))
    train(
        config(patterns, tmp_path / "second", epochs=1, learning_rate=1e-12, init=tmp_path / "first", seed=3)
    )
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(
        torch.allclose(first[n], second[n]) for n in first if n.endswith(("conv1.weight", "fc.weight"))
    )
    with pytest.raises(UserError, match=r"is another network, of width 0\.0625"):
        train(config(patterns, tmp_path / "third", width=0.125, init=tmp_path / "first"))


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
def test_refuses(patterns: Path, tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        train(config(patterns, tmp_path / "run", **values))
    assert not (tmp_path / "run").exists()


def test_refuses_another_recipe_in_the_same_folder(patterns: Path, tmp_path: Path) -> None:
    train(config(patterns, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match=r"recipe\.learning_rate is 0\.02, given 0\.5"):
        train(config(patterns, tmp_path / "run", epochs=1, learning_rate=0.5))


def test_benchmarks_are_looked_at_before_training(patterns: Path, pattern_sets: Path, tmp_path: Path) -> None:
    images, same = pattern_pairs(patterns, num_pairs=20)
    for name, spoilt, labels in (
        ("damaged", [images[0][:50], *images[1:]], same),
        ("few", images[:10], same[:5]),
        ("alike", images, same | True),
    ):
        folder = tmp_path / name
        folder.mkdir()
        write_bin(folder / "lfw.bin", spoilt, labels)
        with pytest.raises(UserError, match=r"lfw\.bin"):
            train(config(patterns, tmp_path / "run", benchmarks=folder))
    assert not (tmp_path / "run").exists()
    train(config(patterns, tmp_path / "run", epochs=1, benchmarks=pattern_sets))
    with pytest.raises(UserError, match=r"benchmarks"):
        train(config(patterns, tmp_path / "run", epochs=1))


def test_a_run_of_one_seed_is_not_a_folder_of_seeds(patterns: Path, tmp_path: Path) -> None:
    train(config(patterns, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match="give --seeds another folder"):
        train(config(patterns, tmp_path / "run", epochs=1, seeds=2))


def test_a_damaged_best_network_of_another_try_is_not_kept(
    patterns: Path, pattern_sets: Path, tmp_path: Path
) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    settings = {"epochs": 1, "benchmarks": pattern_sets}
    train(config(patterns, whole, **settings))
    shutil.copytree(whole, again)
    for name in ("_SUCCESS", "checkpoint.pt", "model.safetensors"):
        (again / name).unlink()
    (again / "best" / "model.safetensors").write_bytes(b"of another try")
    train(config(patterns, again, **settings))
    assert same_weights(whole, again)


@pytest.mark.parametrize(
    "values",
    [{"clip_norm": 0.5}, {"precision": "bf16"}, {"sampling": "balanced"}, {"head": "arcface"}, {"decay_norms": True},
     {"layout": "adaface"}, {"augment": "digiface"}, {"sync_batch_norm": False}],
    ids=lambda values: next(iter(values)),
)  # fmt: skip
def test_every_choice_trains(patterns: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    train(config(patterns, tmp_path / "run", epochs=1, **values))
    (line,) = read_metrics(tmp_path / "run")
    assert 0 < line["loss"] < 200
    assert load_network(tmp_path / "run").module(torch.zeros(2, 3, 112, 112)).isfinite().all()


@pytest.mark.slow
def test_compiled_trains_as_eager(patterns: Path, tmp_path: Path) -> None:
    for name, extra in (("eager", []), ("compiled", ["--compile"])):
        subprocess.run(
            [PROGRAM, *flags(patterns, tmp_path / name, epochs=1, batch_size=48, width=0.25), *extra],
            check=True,
        )
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    before = build_backbone(load_network(tmp_path / "eager").config, seed=0).state_dict()
    learnt = [name for name in eager if name.endswith(("weight", "bias"))]
    apart, moved = (
        torch.cat([(eager[name] - other[name]).flatten() for name in learnt]).norm()
        for other in (compiled, before)
    )
    assert apart < 0.01 * moved


def test_one_identity_is_not_enough(patterns: Path, tmp_path: Path) -> None:
    draw_patterns(tmp_path / "one", num_identities=1, images_per_identity=20)
    with pytest.raises(UserError, match="at least two"):
        train(config(tmp_path / "one", tmp_path / "run"))


def test_tensorboard_shows_the_metrics(patterns: Path, pattern_sets: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(patterns, run, epochs=2, tensorboard=True, benchmarks=pattern_sets))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    wanted = [(line["step"], line["loss"]) for line in read_metrics(run) if "loss" in line]
    assert [(event.step, pytest.approx(event.value)) for event in events.Scalars("loss")] == wanted
    assert [event.step for event in events.Scalars("accuracies/patterns")] == [6, 12]


def test_the_network_serves_the_pipeline_as_onnx(patterns: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(patterns, run, epochs=1, layout="adaface", onnx=True))
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    from_onnx = Recogniser.load(run / "recogniser.onnx")(crops)
    from_torch = open_embedder(run, device="cpu")(crops)
    np.testing.assert_allclose(from_onnx, from_torch, rtol=1e-4, atol=1e-4)
