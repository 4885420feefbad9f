"""A folder that is being written: nobody else's, and one process at a time in it."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import STALE, disk_errors, make_folder, remove_stale

LOCK = ".lock"


def take_lock(folder: Path) -> int:
    """Descriptor of the folder's lock file, locked. The kernel unlocks it when the process ends, however it ends.

    Raises:
        RunError: another process has it, or the disk has no locks.
    """
    path = folder / LOCK
    with disk_errors(path, needed_bytes=64):
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 256, 0).decode(errors="replace").strip() or "another process"
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise RunError(
                f"out {folder} is in use by {holder}: wait for it, or give another folder"
            ) from None
        raise RunError(
            f"out {folder} cannot be locked ({error.strerror}): give a folder on a disk that has locks"
        ) from None
    return lock


def sign_lock(lock: int, folder: Path) -> None:
    """Say in the lock file who holds it, for the message that others get."""
    with disk_errors(folder / LOCK, needed_bytes=64):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)


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
    if foreign:
        raise UserError(
            f"out {folder} holds {foreign[0]} and no {own[0]}, so it is no {what} of d2r-fast: give an empty folder"
        )
