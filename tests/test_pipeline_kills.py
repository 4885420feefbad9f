"""Runs that are stopped from outside, by signals: their status, and the same bytes in the end."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from d2r_fast.engine.samples import draw_samples
from d2r_fast.engine.verify import verify

from .conftest import PROGRAM
from .fakedata import tree


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_its_status(
    renders: Path, mini_models: Path, tmp_path: Path, signum: int
) -> None:
    process = start(renders, mini_models, tmp_path / "out")
    wait_for(tmp_path / "out" / "00000_stats.json", process)
    process.send_signal(signum)
    started_s = time.monotonic()
    assert process.wait(timeout=30) == 128 + signum
    assert time.monotonic() - started_s < 10
    assert not list((tmp_path / "out").glob(".*.tmp"))


@pytest.mark.slow
def test_twenty_kills_leave_the_same_bytes(mini_models: Path, tmp_path: Path) -> None:
    """Each kill strikes at a random moment after the run has begun on its shards."""
    rng = random.Random(0)
    calm, out = tmp_path / "calm", tmp_path / "killed"
    draw_samples(tmp_path / "renders", num_identities=40, images_per_identity=4)
    assert start(tmp_path / "renders", mini_models, calm).wait() == 0
    for kill in range(20):
        process = start(tmp_path / "renders", mini_models, out)
        while not (out / "events.jsonl").exists() or _starts(out) <= kill:
            assert process.poll() is None, "the run ended before it was killed: give it more to do"
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start(tmp_path / "renders", mini_models, out).wait() == 0
    assert tree(out) == tree(calm)
    assert not verify(out).problems


def _starts(out: Path) -> int:
    return (out / "events.jsonl").read_text().count('"event": "start"')


def start(renders: Path, models: Path, out: Path) -> "subprocess.Popen[bytes]":
    command = [PROGRAM, "generate", renders, "--models", models, "--out", out, "--preset", "smoke"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    while not path.exists():
        assert process.poll() is None, "the run ended before its first shard"
        time.sleep(0.02)
