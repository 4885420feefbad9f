"""Which shards of a dataset are in somebody's hands, asked of the kernel and without taking anything.

A run locks the bytes of `.lock` that stand for its shards, one byte a shard (`folder_lock`). The kernel, or the file
server where the folder is shared, drops the lock with the process: a lock that is gone is a process that is gone,
whatever its clock or its last words say.
"""

import fcntl
import os
import struct
from pathlib import Path

from d2r_fast.engine.folder_lock import LOCK

_FLOCK = "hhqqi4x"
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""

Range = tuple[int, int]
"""Shards [first, end)."""


def held_ranges(folder: Path, num_shards: int) -> list[Range] | None:
    """The shards that running processes hold, as sorted ranges that do not touch; None where it cannot be told."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return []
    except OSError:
        return None
    try:
        return _merged(_held(file, 0, num_shards))
    except OSError:
        return None
    finally:
        os.close(file)


def covers(ranges: list[Range], wanted: Range) -> bool:
    """Whether any shard of `wanted` is in one of the ranges."""
    return any(first < wanted[1] and wanted[0] < end for first, end in ranges)


def _held(file: int, first: int, end: int) -> list[Range]:
    """The kernel names one lock at a time, in no order: what lies beside it is asked for again."""
    found, open_ranges = [], [(first, end)]
    while open_ranges:
        first, end = open_ranges.pop()
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, first, end - first, 0)
        kind, _, start, length, _ = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
        if kind != fcntl.F_UNLCK:
            low, high = max(first, start), end if length == 0 else min(end, start + length)
            found.append((low, high))
            open_ranges += [part for part in ((first, low), (high, end)) if part[0] < part[1]]
    return found


def _merged(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged
