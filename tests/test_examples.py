"""The scripts for clusters, run as SLURM and Ray would run them."""

import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from d2r_fast.engine.cli import parse
from d2r_fast.engine.command import Command
from d2r_fast.engine.commands import Generate
from d2r_fast.engine.status import EXIT_STATUS, read_status
from d2r_fast.engine.verify import verify

from .conftest import PROGRAM
from .fakedata import tree

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PAGE = EXAMPLES.parent / "docs" / "cluster.md"
SBATCH = EXAMPLES / "slurm" / "generate.sbatch"
RAY = EXAMPLES / "ray" / "generate.sh"
STUB = """#!/bin/bash
echo "$@" >> "$CALLS/d2r-fast"
trap 'echo stopped >> "$CALLS/d2r-fast"; exit 143' TERM
[ "$SECONDS_TO_RUN" = 0 ] && exit "$ENDS_WITH"
touch "$CALLS/started"
for _ in $(seq 600); do sleep 0.1; done
"""


def environment(tmp_path: Path, **values: str) -> dict[str, str]:
    """That of a job, in which the commands of `tmp_path`/bin go before the others."""
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{PROGRAM.parent}:{os.environ['PATH']}", "CALLS": str(tmp_path),
        "RENDERS": "renders", "MODELS": "models", "OUT": "out", "SECONDS_TO_RUN": "0", "ENDS_WITH": "0",
    } | values  # fmt: skip


def task(number: int, count: int) -> dict[str, str]:
    """What SLURM tells task `number` of an array of `count`."""
    return {
        "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(count),
        "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": str(count - 1), "SLURM_ARRAY_TASK_STEP": "1",
    }  # fmt: skip


def put(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Programs that note how they were called, in place of ours and of SLURM's."""
    put(tmp_path / "bin" / "d2r-fast", STUB)
    put(tmp_path / "bin" / "scontrol", '#!/bin/bash\necho "$@" >> "$CALLS/scontrol"\n')
    return tmp_path


def calls(stubs: Path, name: str) -> list[str]:
    path = stubs / name
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("script", "flags"), [(SBATCH, []), (RAY, ["--executor", "ray", "--ray-address", "auto"])]
)
def test_scripts_call_a_command_that_exists(stubs: Path, script: Path, flags: list[str]) -> None:
    done = subprocess.run(["bash", str(script), "--seed", "5"], env=environment(stubs), check=False)
    assert done.returncode == 0
    (line,) = calls(stubs, "d2r-fast")
    command = parse(shlex.split(line))
    assert isinstance(command, Generate)
    assert [str(command.source), str(command.models), str(command.out)] == ["renders", "models", "out"]
    assert (command.preset, command.seed) == ("paper", 5)
    assert " ".join(flags) in line


@pytest.mark.parametrize("line", re.findall(r"^d2r-fast .*", PAGE.read_text(), flags=re.MULTILINE))
def test_commands_of_the_page_parse(line: str) -> None:
    assert isinstance(parse(shlex.split(line, comments=True)[1:]), Command)


def test_the_page_names_what_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()) if "://" not in link]
    assert len(links) >= 3
    assert all((PAGE.parent / link).is_file() for link in links)
    for status, code in EXIT_STATUS.items():
        assert f"| {code} | {status}" in PAGE.read_text()


@pytest.mark.parametrize("script", [SBATCH, RAY])
def test_scripts_say_what_is_missing(stubs: Path, script: Path) -> None:
    given = environment(stubs)
    del given["MODELS"]
    done = subprocess.run(["bash", str(script)], env=given, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "MODELS: model folder" in done.stderr
    assert calls(stubs, "d2r-fast") == []


@pytest.mark.parametrize("code", [1, 2, 3])
def test_the_array_ends_as_the_program_ends(stubs: Path, code: int) -> None:
    done = subprocess.run(["bash", str(SBATCH)], env=environment(stubs, ENDS_WITH=str(code)), check=False)
    assert done.returncode == code
    assert calls(stubs, "scontrol") == []


@pytest.mark.parametrize(
    ("signum", "requeued"),
    [(signal.SIGUSR1, ["requeue 77_3"]), (signal.SIGTERM, [])],
    ids=["time is up", "cancelled"],
)
def test_the_array_stops_the_program_and_comes_back_where_its_time_was_up(
    stubs: Path, signum: signal.Signals, requeued: list[str]
) -> None:
    given = environment(stubs, SECONDS_TO_RUN="60", **task(3, 8))
    process = subprocess.Popen(["bash", str(SBATCH)], env=given)
    _wait_for((stubs / "started").exists, timeout_s=30)
    process.send_signal(signum)
    assert process.wait(timeout=30) == 143
    assert calls(stubs, "d2r-fast")[-1] == "stopped"
    assert calls(stubs, "scontrol") == requeued


def test_two_tasks_of_an_array_make_one_dataset(tmp_path: Path, mini_models: Path, renders: Path) -> None:
    out = tmp_path / "dataset"
    given = {"RENDERS": str(renders), "MODELS": str(mini_models), "OUT": str(out), "PRESET": "smoke"}
    flags = ["--images-per-identity", "2", "--steps", "1", "--backend", "torch"]  # which compiles nothing
    processes = [
        subprocess.Popen(
            ["bash", str(SBATCH), *flags], env=environment(tmp_path, **given, **task(number, 2)),
            stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert ["0:2" in said[0], "2:4" in said[1]] == [True, True]
    assert verify(out).problems == []
    status = read_status(out)
    assert (status.progress, len(status.finished), status.counts["written"]) == ("finished", 4, 8)


@pytest.fixture
def ray_head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray cluster of this machine alone with two processors, as the environment of who may use it."""
    pytest.importorskip("ray")
    # Ray's sockets lie below it, and their names may have no more than 107 letters.
    folder = tempfile.mkdtemp(prefix="ray-")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    allowed = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    start = ["start", "--head", "--block", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}"]
    start += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
    with (tmp_path / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM.with_name("ray"), *start], stdout=log, stderr=log, env=os.environ | allowed
        )
        try:
            _wait_for(lambda: "Ray runtime started" in (tmp_path / "ray.log").read_text(), timeout_s=120)
            yield allowed | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            process.terminate()
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_ray_job_makes_the_dataset_that_one_process_makes(
    tmp_path: Path, mini_models: Path, renders: Path, ray_head: dict[str, str]
) -> None:
    flags = ["--images-per-identity", "2", "--steps", "1"]
    given = ray_head | {"RENDERS": str(renders), "MODELS": str(mini_models), "PRESET": "smoke"}
    job = environment(tmp_path, **given, OUT=str(tmp_path / "ray"))
    subprocess.run(["bash", str(RAY), "--workers", "2", *flags], check=True, env=job, timeout=240)
    alone = environment(tmp_path, **given, OUT=str(tmp_path / "alone"))
    subprocess.run(["bash", str(SBATCH), *flags], check=True, env=alone, timeout=240)
    assert tree(tmp_path / "ray") == tree(tmp_path / "alone")
    assert verify(tmp_path / "ray").problems == []


def _wait_for(found: Callable[[], bool], *, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not found():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
