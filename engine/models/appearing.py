"""A folder of models that is there complete or not at all."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import disk_errors, make_folder, sync_folder, temporary


@contextmanager
def appearing_folder(out: Path, *, needed_bytes: int) -> Iterator[Path]:
    """A folder beside `out` that takes its name when the block ends, and is removed if that raises.

    Raises:
        UserError: `out` holds files, or cannot be made.
        RunError: the disk is too full.
    """
    if out.exists() and out.samefile(os.curdir):
        raise UserError(f"{out} is the folder that you are in, which cannot be replaced: give a new one")
    folder = temporary(out)
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} is not an empty folder: give a new one, or delete it first")
        make_folder(out.parent)
        _remove_abandoned(out)
        free = shutil.disk_usage(out.parent).free
        if free < needed_bytes:
            raise RunError(
                f"{out} needs {needed_bytes:,} bytes and its disk has {free:,} free: free some space"
            )
        folder.mkdir()
    try:
        yield folder
        for inner in folder.rglob("*/"):
            sync_folder(inner)
        sync_folder(folder)
        folder.rename(out)
        sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove_abandoned(out: Path) -> None:
    """Delete what killed runs left of this folder; those of a process still running are left alone."""
    for path in out.parent.iterdir():
        match = re.fullmatch(rf"\.{re.escape(out.name)}\.(\d+)\.tmp", path.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(path)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
