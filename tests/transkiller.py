"""Stops translations by SIGKILL, over and over.

    python transkiller.py SOURCE WEIGHTS FOLDER

A run in FOLDER/whole is left alone; those in FOLDER/killed are killed at random moments, the last one ends by itself.
Prints how many were killed. Fails where a file has its final name before it is whole.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fakedata import tree
from tests.fakemethod import FakeMethod
from tests.translating import run

from d2r_fast.translation import methods
from d2r_fast.translation.method import Run

NUM_TRIES, LONGEST_S = 12, 0.4
BATCH_S = 0.1
"""How long a batch takes at least: a run has to last until it is killed, however fast the machine."""


class Slow(FakeMethod):
    """The same with a pause."""

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        time.sleep(BATCH_S)
        return super().run(networks, inputs, keys)


def in_a_process(source: Path, weights: Path, out: Path, *, batch_size: int) -> int:
    """Starts a run in a process of its own, which has loaded everything already."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = run(source, weights, out, identities_per_shard=1, batch_size=batch_size)
        finally:
            os._exit(status)
    return child


def kill_at_random(source: Path, weights: Path, out: Path, whole: dict[str, str]) -> int:
    rng, kills = random.Random(5), 0
    for number in range(NUM_TRIES):
        child = in_a_process(source, weights, out, batch_size=1 + number % 3)
        time.sleep(rng.uniform(0.02, LONGEST_S))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        for name, digest in tree(out).items() if out.is_dir() else ():
            assert name.startswith(".") or whole[name] == digest, f"{name} is seen before it is whole"
    return kills


if __name__ == "__main__":
    given, checkpoint, folder = map(Path, sys.argv[1:])
    methods._HOMES["vsait"] = (Slow.__module__, Slow.__name__)
    for name in ("whole", "killed"):
        if name == "killed":
            print(kill_at_random(given, checkpoint, folder / name, tree(folder / "whole")))
        last = in_a_process(given, checkpoint, folder / name, batch_size=4)
        assert os.waitstatus_to_exitcode(os.waitpid(last, 0)[1]) == 0
