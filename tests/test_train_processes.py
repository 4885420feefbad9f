"""Training that is killed and started again, and on two processes: neither changes what comes out."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.network_file import load_network
from d2r_fast.recognition.training.run_folder import read_metrics

from .conftest import PROGRAM
from .fakefaces import draw_patterns
from .fakeruns import flags, same_weights, weights

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]


@pytest.mark.parametrize("after_line", [3, 8])
def test_killed_and_resumed_ends_in_the_same_weights(
    patterns: Path, pattern_sets: Path, tmp_path: Path, after_line: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = {"checkpoint_every": 1, "dropout": 0.3, "epochs": 2, "benchmarks": pattern_sets}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([PROGRAM, *flags(patterns, whole, **settings)], check=True, env=environment)
    started = subprocess.Popen([PROGRAM, *flags(patterns, cut, **settings)], env=environment)
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and len(read_metrics(cut)) < after_line:
        time.sleep(0.005)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL, "it was done before it was killed"
    assert not (cut / "_SUCCESS").exists()
    subprocess.run([PROGRAM, *flags(patterns, cut, **settings)], check=True, env=environment)
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


def test_two_processes_train_the_step_of_one_with_the_whole_batch(patterns: Path, tmp_path: Path) -> None:
    """To rounding, which AdaFace's margin and batch norm magnify from step to step; so one step is compared."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = {"epochs": 1, "batch_size": 48}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([PROGRAM, *flags(patterns, one, **settings)], check=True, env=environment)
    subprocess.run([*TWO, PROGRAM, *flags(patterns, two, **settings)], check=True, env=environment)
    assert_moved_alike(two, one, tolerance=1e-4)
    heads = [torch.load(run / "checkpoint.pt", weights_only=True)["weights"] for run in (one, two)]
    for name in ("head.kernel", "head.batch_mean", "head.batch_std"):
        torch.testing.assert_close(heads[1][name], heads[0][name], rtol=1e-4, atol=1e-5)
    (first,), (second,) = read_metrics(one), read_metrics(two)
    assert (first["step"], second["step"]) == (1, 1)
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert second["norm"] == pytest.approx(first["norm"], rel=1e-5)


def test_two_processes_share_what_they_cannot_read_measure_once_and_resume(
    patterns: Path, pattern_sets: Path, tmp_path: Path
) -> None:
    spoilt, run = tmp_path / "spoilt", tmp_path / "run"
    draw_patterns(spoilt, num_identities=8, images_per_identity=6)
    for name in ("000/0.png", "003/5.png", "006/2.png"):
        (spoilt / name).write_bytes((spoilt / name).read_bytes()[:100])
    settings = {
        "epochs": 3,
        "max_unreadable": 3,
        "benchmarks": pattern_sets,
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


def test_of_two_processes_one_says_what_is_wrong(patterns: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    command = [*TWO, PROGRAM, *flags(patterns, tmp_path / "run")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("d2r-fast:")] == [
        f"d2r-fast: out {tmp_path / 'run'} holds thesis.tex and no run.json, so it is no training run of d2r-fast: "
        "give an empty folder"
    ]
    assert "trainer.py" not in done.stderr
