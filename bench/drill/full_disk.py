"""Disks that are full at a random byte: a limit on the size of files, a small disk of memory, a device that is always
full. Each time the run has to end in one line that names the place and the bytes, and to go on once there is room.
"""

import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

from d2r_fast.bench.drill.child import Ended
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard, temporaries, tree
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.files import temporary
from d2r_fast.engine.marker import DOCUMENT, ShardFiles

FULL = Path("/dev/full")
LEAST_BYTES = 1024
"""A smaller limit would cut the run's own message short."""
WANTED = "status 1, one line with path and bytes, nothing partial in sight, the rerun's bytes as without"
_NAMED = re.compile(r"[\d,]+ bytes")


def drill(yard: Yard) -> list[Outcome]:
    """20 offsets by a limit, 20 by a small disk, and every kind of file on a full device."""
    times = 4 if yard.quick else 20
    source = yard.source(num_identities=6, images=4)
    (source / "00002" / "0.png").write_bytes(b"")  # so that there is an error to be written down
    yard.done(yard.translate(source, yard.folder / "calm"))
    expected = tree(yard.folder / "calm")
    return [
        limited(yard, source, expected, times=times),
        small_disk(yard, source, expected, times=times),
        device(yard, source, expected),
    ]


def limited(yard: Yard, source: Path, expected: dict[str, str], *, times: int) -> Outcome:
    """Files may have no more than so many bytes (RLIMIT_FSIZE)."""
    rng, faults = yard.rng("limits"), []
    most = max(path.stat().st_size for path in (yard.folder / "calm").glob("*.tar"))
    limits = [int(limit) for limit in rng.integers(LEAST_BYTES, most, times)]
    for limit in limits:
        out = yard.folder / f"limit-{limit}"
        ended = yard.run(yard.translate(source, out), prepare=partial(_limit, limit))
        faults += _faults(out, ended, expected) + _rerun(yard, source, out, expected)
    return _outcome(
        f"the file size limit at {times} random offsets", faults, f"{min(limits)} to {max(limits)} bytes"
    )


def small_disk(yard: Yard, source: Path, expected: dict[str, str], *, times: int) -> Outcome:
    """The dataset's disk is a tmpfs of so many bytes."""
    rng, faults, fault = yard.rng("disks"), [], f"a tmpfs full at {times} random offsets"
    total = sum(path.stat().st_size for path in (yard.folder / "calm").iterdir())
    for number, size in enumerate(int(size) for size in rng.integers(8192, total, times)):
        disk = yard.folder / f"disk-{number}"
        disk.mkdir()
        with _mounted(disk, size) as refusal:
            if refusal is not None:
                return Outcome(fault, WANTED, f"cannot be shown here: {refusal}", None)
            out = disk / "out"
            ended = yard.run(yard.translate(source, out))
            faults += _faults(out, ended, expected)
            _mount("-o", "remount,size=64m", str(disk))
            faults += _rerun(yard, source, out, expected)
    return _outcome(fault, faults, f"8,192 to {total:,} bytes")


def device(yard: Yard, source: Path, expected: dict[str, str]) -> Outcome:
    """One file of a run, of every kind in turn, goes to a device that is full."""
    fault = "each kind of file on /dev/full"
    if not FULL.exists():
        return Outcome(fault, WANTED, f"cannot be shown here: no {FULL}", None)
    faults, names = [], [DOCUMENT, *ShardFiles.of(2).all("webdataset")]
    for name in names:
        out = yard.folder / f"full-{name}"
        ended = yard.run(yard.translate(source, out), prepare=partial(_plant, name))
        found = _faults(out, ended, expected)
        found += [] if name in ended.last_line else [f"{name} is not named: {ended.last_line}"]
        faults += found + _rerun(yard, source, out, expected)
    return _outcome(fault, faults, ", ".join(names))


def _outcome(fault: str, faults: list[str], note: str) -> Outcome:
    found = f"{len(faults)} of another kind" + (f" (first: {faults[0]})" if faults else "")
    return Outcome(fault, WANTED, found, not faults, note)


def _faults(out: Path, ended: Ended, expected: dict[str, str]) -> list[str]:
    """What is wrong with how a run on a full disk ended."""
    line, found = ended.last_line, []
    if ended.status != 1:
        found.append(f"status {ended.status}: {line}")
    if str(out) not in line or not _NAMED.search(line) or "Traceback" in ended.said:
        found.append(f"said {line!r}")
    if out.is_dir():
        found += [f"{name} is left" for name in temporaries(out)]
        found += [
            f"{name} is not whole" for name, digest in tree(out).items() if expected.get(name) != digest
        ]
    return found


def _rerun(yard: Yard, source: Path, out: Path, expected: dict[str, str]) -> list[str]:
    ended = yard.run(yard.translate(source, out))
    if ended.status != 0:
        return [f"the rerun ended with {ended.status}: {ended.last_line}"]
    return [] if tree(out) == expected else ["the rerun's files differ"]


def _limit(num_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def _plant(name: str) -> None:
    """Once the folder is taken, the name under which `name` will be prepared leads to the full device."""
    begin: Callable[[Dataset], None] = Dataset.begin

    def planted(self: Dataset) -> None:
        if name != DOCUMENT:
            begin(self)
        temporary(self.folder / name).symlink_to(FULL)
        if name == DOCUMENT:
            begin(self)

    mock.patch.object(Dataset, "begin", planted).start()


@contextmanager
def _mounted(folder: Path, num_bytes: int) -> Iterator[str | None]:
    """The folder on a disk of its own; gives why not where that is not possible."""
    refusal = _mount("-t", "tmpfs", "-o", f"size={num_bytes},nr_inodes=1000", "tmpfs", str(folder))
    try:
        yield refusal
    finally:
        if refusal is None:
            subprocess.run(["umount", str(folder)], check=True)


def _mount(*arguments: str) -> str | None:
    """Why it could not be mounted; None where it was."""
    if os.geteuid() != 0:
        return "only root may mount a tmpfs"
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"mount: {error.strerror}"
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
