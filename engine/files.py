"""Files that appear whole or not at all, whatever stops the process.

A file is written under a temporary name in its own folder, flushed to disk, renamed, and the rename itself
flushed. What a killed process leaves is a name like `.00003.tar.4711.tmp`, which `remove_stale` deletes.
"""

import errno
import hashlib
import io
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from d2r_fast.engine.errors import RunError, UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_URL = re.compile(r"^[a-z][a-z0-9+.-]+:/")
"""What Path makes of s3://bucket/folder."""
STALE = re.compile(r"^\..+\.\d+\.tmp$")

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
         errno.EFBIG: "the file size limit is reached"}  # fmt: skip
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PLACE = {errno.ENOENT: "its folder does not exist: make it, or give another path",
             errno.EISDIR: "it is a folder: give a file name",
             errno.ENAMETOOLONG: "its name is too long: give a shorter one",
             errno.ELOOP: "its links lead in a circle: give another path"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """What went to disk: hex SHA-256 of the bytes, and how many."""

    sha256: str
    num_bytes: int

    def entry(self) -> dict[str, Any]:
        """The form it takes in a shard's marker."""
        return {"sha256": self.sha256, "bytes": self.num_bytes}


class HashingFile(io.BufferedIOBase):
    """A binary file that is written front to back, and knows the digest of what it took."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._num_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._num_bytes

    def write(self, data: "Buffer") -> int:
        self._digest.update(data)
        count = self._file.write(data)
        self._num_bytes += count
        return count

    def written(self) -> Written:
        return Written(self._digest.hexdigest(), self._num_bytes)


def temporary(path: Path) -> Path:
    """The name under which this process prepares `path`."""
    return Path(_temporary(path))


def _temporary(path: Path) -> str:
    """As text: a Path would leave its name in Python's table of interned strings, one for each file of a run."""
    return os.path.join(path.parent, f".{path.name}.{os.getpid()}.tmp")  # noqa: PTH118 (see above)


@contextmanager
def open_atomic(path: Path, *, needed_bytes: int | None = None) -> Iterator[HashingFile]:
    """A file to write front to back; it appears at `path` when the block ends, not at all if that raises.

    Raises:
        RunError: the disk is full; the line names `path`, and `needed_bytes` where they are known.
        UserError: the folder may not be written to, or `path` is no place for a file.
    """
    if not path.name:
        raise UserError(f"{path} cannot be written: it is a folder: give a file name")
    temp = _temporary(path)
    with disk_errors(path, needed_bytes=needed_bytes):
        file = _create(temp, path)
        try:
            with file:
                hashing = HashingFile(file)
                yield hashing
                file.flush()
                os.fsync(file.fileno())
            os.replace(temp, path)  # noqa: PTH105 (text)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temp)  # noqa: PTH108 (text)
            raise
        sync_folder(path.parent)


def _create(temp: str, path: Path) -> BinaryIO:
    try:
        return open(temp, "wb")  # noqa: PTH123 (text; the caller closes it)
    except NotADirectoryError:
        raise UserError(
            f"{path} cannot be written: {path.parent} is no folder: give one that exists"
        ) from None


def write_atomic(path: Path, data: bytes) -> Written:
    """Write `data` to `path`, whole or not at all.

    Raises:
        RunError: the disk is full.
        UserError: the folder may not be written to, or `path` is no place for a file.
    """
    with open_atomic(path, needed_bytes=len(data)) as file:
        file.write(data)
    return file.written()


def write_synced(path: Path, data: bytes) -> Written:
    """Write `data` under its final name and flush it to disk: for files in a folder that nobody sees yet."""
    with path.open("wb") as raw:
        file = HashingFile(raw)
        file.write(data)
        raw.flush()
        os.fsync(raw.fileno())
    return file.written()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those that it lies in.

    Raises:
        UserError: a file is in the way, or nothing may be written there.
    """
    if _URL.match(str(folder)):
        raise UserError(
            f"out {folder} is no folder but an address, which this does not write to: give a folder"
        )
    try:
        with disk_errors(folder, needed_bytes=4096):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"out {folder} is a file or lies in one: give a folder") from None


def remove_stale(folder: Path, *, which: Callable[[str], bool] | None = None) -> None:
    """Delete what killed processes left unfinished in `folder`, by name `which`; the caller must be alone with it."""
    for path in stale(folder):
        if which is not None and not which(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def stale(folder: Path) -> list[Path]:
    """Temporary files and folders in `folder`, sorted."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if STALE.match(entry.name))


def check_space(folder: Path, *, needed_bytes: int) -> None:
    """See that the disk has twice `needed_bytes` free: for the new file, and room to go on.

    Raises:
        RunError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < 2 * needed_bytes:
        raise RunError(
            f"{folder} has {free:,} bytes free and the next shard needs {2 * needed_bytes:,}: free some "
            "space, then run the same command again"
        )


def check_out(path: Path, *, inputs: Iterable[Path] = ()) -> None:
    """See that `path` can become a file, new or in place of a regular one, before work goes into it.

    Raises:
        UserError: it names a folder, a device or the like, lies in no folder, or is one of `inputs`.
    """
    fault = _out_fault(path)
    if fault is None and any(_same_file(path, given) for given in inputs):
        fault = "is one of the files to read"
    if fault is not None:
        raise UserError(f"out {path} {fault}: give --out a file name in a folder that exists")


def _out_fault(path: Path) -> str | None:
    """Why no file can be put at `path`; None where one can."""
    if path.name in ("", ".."):
        return "has no file name"
    try:
        if not stat.S_ISDIR(path.parent.stat().st_mode):
            return "lies in no folder"
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None if path.parent.is_dir() else "lies in no folder"
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "is a folder"
    return None if stat.S_ISREG(mode) else "is no regular file"


def _same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _is_about(error: OSError, path: Path) -> bool:
    """Whether the error is about `path`, what it lies in or what lies in it, and not about some other file."""
    if error.filename is None:
        return True
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    return named in (path, temporary(path) if path.name else path, *path.parents) or path in named.parents


@contextmanager
def disk_errors(path: Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn a full disk into a RunError, and a place that cannot be written to into a UserError.

    Other errors pass, and so does what is about a file elsewhere that the block reads. NotADirectoryError passes
    too: who makes a folder knows best what to ask for instead.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            needed = "" if needed_bytes is None else f" and it needs {needed_bytes:,} bytes"
            raise RunError(
                f"{path} cannot be written: {_FULL[error.errno]}{needed}; what is finished is kept, so free "
                "some space and run the same command again"
            ) from error
        if error.errno in _FORBIDDEN:
            raise UserError(
                f"{path} cannot be written ({error.strerror}): give a folder you may write to"
            ) from error
        if error.errno in _NO_PLACE and _is_about(error, path):
            raise UserError(f"{path} cannot be written: {_NO_PLACE[error.errno]}") from error
        raise
