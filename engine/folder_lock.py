"""A folder that is being written: nobody else's, and one process at a time in it, or at a range of its shards.

What is locked are bytes of the folder's lock file: byte N for shard N, all of them for a whole run. The locks belong
to the open file, not to the process (F_OFD_SETLK), so that worker processes that hold it open keep the lock.
"""

import fcntl
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import STALE, disk_errors, make_folder, remove_stale

LOCK = ".lock"
_WHOLE = range(1 << 40)
"""Bytes of a whole run: more than there are shards."""
_COMMON = range(_WHOLE.stop, _WHOLE.stop + 1)
"""The byte of who writes what all ranges share."""
_HOLDER = re.compile(r"^(process \d+ on \S+?)(?:, shards (\d+):(\d+))?$")
_BUSY = (BlockingIOError, PermissionError)
"""What fcntl raises where another has the bytes: EAGAIN or, as POSIX allows, EACCES."""


def take_lock(folder: Path, shards: range | None = None) -> int:
    """Descriptor of the folder's lock file, locked for these shards or, where there are none, for all and everything.
    The kernel unlocks it when the last process that has it open ends, however it ends.

    Raises:
        RunError: another process has it or a part of it, or the disk has no locks.
    """
    path, wanted = folder / LOCK, shards or _WHOLE
    with disk_errors(path, needed_bytes=64):
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _control(lock, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        holder = _find_holder(lock, wanted)
        os.close(lock)
        if isinstance(error, _BUSY):
            what = f"out {folder}" if shards is None else f"shards {_span(shards)} of out {folder}"
            other = "another folder" if shards is None else "other shards"
            verb = "is" if shards is None else "are"
            raise RunError(f"{what} {verb} in use by {holder}: wait for it, or give {other}") from None
        raise RunError(
            f"out {folder} cannot be locked ({error.strerror}): give a folder on a disk that has locks"
        ) from None
    return lock


def sign_lock(lock: int, folder: Path, shards: range | None = None) -> None:
    """Say in the lock file who holds it, for the message that others get."""
    me = f"process {os.getpid()} on {os.uname().nodename}" + (f", shards {_span(shards)}" if shards else "")
    with alone(lock), disk_errors(folder / LOCK, needed_bytes=64):
        others = [line for line, span in _holders(lock) if not _overlap(span, shards or _WHOLE)]
        text = "".join(f"{line}\n" for line in [*others, me]).encode()
        os.ftruncate(lock, 0)
        os.pwrite(lock, text, 0)


@contextmanager
def alone(lock: int) -> Iterator[None]:
    """Time for what all who hold parts of the folder share, such as its document; waits for another who is at it."""
    _control(lock, fcntl.F_OFD_SETLKW, _COMMON)
    try:
        yield
    finally:
        _control(lock, fcntl.F_OFD_SETLK, _COMMON, kind=fcntl.F_UNLCK)


def _control(lock: int, command: int, span: range, *, kind: int = fcntl.F_WRLCK) -> tuple[int, int, int]:
    """fcntl with Linux's `struct flock` of 64 bits; the kind, start and length that it leaves there."""
    packed = struct.pack("hhqqi0q", kind, os.SEEK_SET, span.start, len(span), 0)
    found = struct.unpack("hhqqi0q", fcntl.fcntl(lock, command, packed))
    return found[0], found[2], found[3]


def _find_holder(lock: int, wanted: range) -> str:
    """Who has bytes of these, as they signed."""
    with suppress(OSError):
        kind, start, length = _control(lock, fcntl.F_OFD_GETLK, wanted)
        if kind != fcntl.F_UNLCK:
            lines = [line for line, span in _holders(lock) if _overlap(span, range(start, start + length))]
            return lines[0] if lines else "another process"
    return "another process"


def _holders(lock: int) -> Iterator[tuple[str, range]]:
    """Who signed, and for which bytes; those who have ended among them."""
    for line in os.pread(lock, 1 << 20, 0).decode(errors="replace").splitlines():
        match = _HOLDER.match(line)
        if match:
            yield line, range(int(match[2]), int(match[3])) if match[2] else _WHOLE


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _span(shards: range) -> str:
    return f"{shards.start}:{shards.stop}"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be and rid of what killed processes left, for this process alone.

    Raises:
        UserError: it is no folder to write to.
        RunError: another process has it, or the disk has no locks.
    """
    make_folder(folder)
    lock = take_lock(folder)
    try:
        sign_lock(lock, folder)
        remove_stale(folder)
        yield
    finally:
        os.close(lock)


def refuse_foreign(folder: Path, *, own: Sequence[str], what: str) -> None:
    """Leave a folder of something else alone; an empty or barely started one is anybody's.

    Args:
        own: the names of ours; the first of them says that the folder is.
        what: what we would write there, for the message.

    Raises:
        UserError: something else is there.
    """
    if not folder.is_dir() or (folder / own[0]).exists():
        return
    foreign = sorted(
        path.name for path in folder.iterdir() if path.name not in (LOCK, *own) and not STALE.match(path.name)
    )
    # Asked once more, since another process may have begun it between the two looks.
    if foreign and not (folder / own[0]).exists():
        raise UserError(
            f"out {folder} holds {foreign[0]} and no {own[0]}, so it is no {what} of d2r-fast: give an empty folder"
        )
