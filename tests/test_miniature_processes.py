"""Processes for work side by side: a thread each, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from d2r_fast.bench.miniature.processes import await_all, side_by_side
from d2r_fast.engine.errors import RunError

from .fakesides import begin_for_long

PATIENCE_S = 60.0


def assert_end(processes: list[int]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    assert processes
    while left := [process for process in processes if is_there(process)]:
        assert time.monotonic() < end_s, f"{left} are still there"
        time.sleep(0.05)


def is_there(process: int) -> bool:
    """Not as a zombie, which only waits to be asked how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_has_a_thread() -> None:
    with side_by_side("cpu") as pool:
        assert pool.submit(torch.get_num_threads).result() == 1


def test_they_end_in_the_middle_of_their_work_where_the_block_raises() -> None:
    processes: list[int] = []

    def work() -> None:
        with side_by_side("cpu") as pool:
            processes.extend(begin_for_long(pool))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert_end(processes)


def test_they_end_with_a_process_that_is_killed() -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "tests.fakesides"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        processes = [int(number) for number in process.stdout.readline().split()]
        process.kill()
    assert_end(processes)


def test_one_that_is_killed_ends_the_run_in_a_sentence() -> None:
    with pytest.raises(RunError, match=r"a process was killed .* run the same command again"):  # noqa: SIM117
        with side_by_side("cpu") as pool:
            pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()


def test_they_leave_the_keyboard_to_who_started_them() -> None:
    with side_by_side("cpu") as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


def test_what_fails_side_by_side_is_raised() -> None:
    with side_by_side("cpu") as pool, pytest.raises(ZeroDivisionError):
        await_all("work", [pool.submit(divmod, 1, 0)])
