"""One process at a time in a folder that is being written."""

import fcntl
import os
from pathlib import Path

from d2r_fast.engine.errors import RunError
from d2r_fast.engine.files import disk_errors

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
