"""Stops a producer by SIGKILL, over and over.

    python killer.py FOLDER random DOCUMENT [each DOCUMENT ...]

random: at random moments, 20 times. each: at each single change of the file
system, before it or half way through a write, each time afresh. Prints how many kills there were. Ends with
an error if a file is ever seen that is not whole, or a marker that is not worth its shard, or if the tree
that the last run leaves differs from the tree of a run that nothing disturbed.

test_write.py runs this as a process of its own, where nothing hinders a fork.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakedata import make_dataset, open_dataset, tree

from d2r_fast.engine.files import HashingFile
from d2r_fast.engine.verify import verify
from d2r_fast.engine.verify_shard import verify_shard

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def run(work: Callable[[], object], after_s: float | None = None) -> bool:
    """Do `work` in a process; kill it after some time. Whether a kill ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"producer failed with {status}"
    return False


def die_at_change(number: int, folder: Path) -> None:
    """Have this process killed at its `number`-th change below `folder`."""
    left = number
    write = HashingFile.write

    def count() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and str(arguments[0]).startswith(str(folder)) and count():
            os.kill(os.getpid(), signal.SIGKILL)

    def write_half(self: HashingFile, data: bytes) -> int:
        if count():
            write(self, data[: len(data) // 2])
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, data)

    sys.addaudithook(hook)
    HashingFile.write = write_half  # type: ignore[method-assign]


def check_visible(folder: Path, expected: dict[str, str]) -> None:
    """Whatever has its final name has its final content."""
    for name, digest in tree(folder).items():
        if not name.startswith(".") and expected[name] != digest:
            raise AssertionError(f"{name} is seen before it is whole")


def check_markers(folder: Path, document: dict[str, Any]) -> None:
    """Whatever counts as finished is whole, to the last byte."""
    with open_dataset(folder, document) as dataset:
        finished = dataset.finished
    for shard in finished:
        problems = verify_shard(folder, document, shard, quick=False).problems
        assert not problems, problems


def kill_at_random(folder: Path, document: dict[str, Any], expected: dict[str, str]) -> int:
    rng = random.Random(11)
    kills = 0
    while kills < 20:
        if not run(lambda: make_dataset(folder, document), after_s=rng.uniform(0.002, 0.09)):
            assert tree(folder) == expected
            shutil.rmtree(folder)  # a machine this fast is done before 20 kills: begin afresh
            continue
        kills += 1
        check_visible(folder, expected)
        if (folder / "dataset.json").exists():
            check_markers(folder, document)
    assert tree(make_dataset(folder, document)) == expected
    return kills


def kill_at_each_change(folder: Path, document: dict[str, Any], expected: dict[str, str]) -> int:
    for kills in range(10_000):
        shutil.rmtree(folder, ignore_errors=True)

        def work(number: int = kills + 1) -> None:
            die_at_change(number, folder)
            make_dataset(folder, document)

        if not run(work):
            return kills
        check_visible(folder, expected)
        assert tree(make_dataset(folder, document)) == expected, f"killed at change {kills + 1}"
    raise AssertionError("the producer never ends")


if __name__ == "__main__":
    modes = {"random": kill_at_random, "each": kill_at_each_change}
    for place, (mode, text) in enumerate(zip(sys.argv[2::2], sys.argv[3::2], strict=True)):
        wanted, out = json.loads(text), Path(sys.argv[1]) / str(place)
        undisturbed = tree(make_dataset(out / "undisturbed", wanted))
        assert not verify(out / "undisturbed").problems
        print(modes[mode](out / "killed", wanted, undisturbed))
