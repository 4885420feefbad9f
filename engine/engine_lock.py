"""One builder at a time in an engines folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from d2r_fast.engine.console import say
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import disk_errors
from d2r_fast.engine.folder_lock import LOCK


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keeps other builders out of an engines folder; waits for one who is at it.

    Raises:
        UserError: no folder can be made there.
        RunError: its disk has no locks.
    """
    path = root / LOCK
    with disk_errors(path):
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{root} is not a folder: give --out or --engines another") from None
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{root}: another process builds engines there, waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise RunError(
                f"{root} cannot be locked ({error.strerror}): give a folder on a disk that has locks"
            ) from None
        yield
    finally:
        os.close(descriptor)
