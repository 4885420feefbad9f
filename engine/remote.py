"""A folder behind fsspec, as s3://bucket/prefix: nothing in it can be renamed or locked, but an object is there whole
or not at all.

A `Remote` is a name alone, so that every process opens the file system for itself. What a network does for a moment is
tried again a few times; what lasts ends the run with one line that names the object. That what arrived is what was
sent is the store's to check on the way (S3 clients send a checksum with every part, and S3 refuses what does not fit);
its size is looked at here, and `d2r-fast verify` reads everything.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from d2r_fast.engine.console import say
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import disk_errors

WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Between one try and the next, beside what the file system's own client tries again."""
NUM_THREADS = 16
"""Objects under way at once: small ones are a wait each."""
_INSTALL = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""Object stores, and the package that each needs."""
_STORES = frozenset(_INSTALL)
_LIBRARIES = {"botocore.exceptions": ("BotoCoreError", "ClientError"), "aiohttp": ("ClientError",),
              "gcsfs.retry": ("HttpError",), "azure.core.exceptions": ("AzureError",)}  # fmt: skip
"""What the clients of file systems raise that is no OSError."""
_NO_KEY = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""What another try would come to again."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Remote:
    """The folder at a URL that fsspec knows; names are relative to it, with slashes."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def in_process(self) -> bool:
        """Whether it lives in the memory of this process, where no other sees it."""
        return self.url.startswith("memory://")

    def sizes(self) -> dict[str, int]:
        """Bytes of every object in it, by name; empty where there is none.

        Raises:
            UserError: its file system is not installed or not known, there is no bucket of this name, or no right to
                see it; or it is no folder.
            RunError: it does not answer.
        """
        fs, root = self._open()

        def find() -> dict[str, Any]:
            fs.invalidate_cache()
            found: dict[str, Any] = fs.find(root, detail=True)
            return found

        found = self._try("", find)
        if root in found:
            raise UserError(f"{self.url} is a file: give a folder")
        return {path[len(root) :].lstrip("/"): int(info["size"]) for path, info in found.items()}

    def read(self, name: str) -> bytes | None:
        """What the object holds; None where there is none."""
        fs, root = self._open()

        def cat() -> bytes | None:
            data: bytes = fs.cat_file(f"{root}/{name}")
            return data

        return self._try(name, cat, absent=lambda: None)

    def read_all(self, names: Iterable[str]) -> Mapping[str, bytes | None]:
        """The same of many, at once."""
        wanted = list(names)
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return dict(zip(wanted, pool.map(self.read, wanted), strict=True))

    def write(self, name: str, data: bytes) -> None:
        """Put an object, in place of what was there."""
        fs, root = self._open()

        def pipe() -> None:
            self._make_parent(fs, f"{root}/{name}")
            fs.pipe_file(f"{root}/{name}", data)

        self._try(name, pipe)

    def offer(self, name: str, data: bytes) -> None:
        """The same of what nobody relies on: tried once, and given up where it fails."""
        fs, root = self._open()
        with suppress(*_errors()):
            self._make_parent(fs, f"{root}/{name}")
            fs.pipe_file(f"{root}/{name}", data)

    def create(self, name: str, data: bytes) -> bytes:
        """Put an object unless there is one; what it holds then, which may be another's."""
        fs, root = self._open()

        def pipe() -> None:
            self._make_parent(fs, f"{root}/{name}")
            with suppress(FileExistsError):
                # S3 asks for this with If-None-Match; a file system that cannot looks first.
                fs.pipe_file(f"{root}/{name}", data, mode="create")

        if self.read(name) is None:
            self._try(name, pipe)
        return self.read(name) or b""

    def remove(self, name: str) -> None:
        """See that there is no such object."""
        fs, root = self._open()
        self._try(name, lambda: fs.rm_file(f"{root}/{name}"), absent=lambda: None)

    def put(self, folder: Path, names: Iterable[str]) -> None:
        """Send files of a local folder, and see that each arrived with all its bytes."""
        self._spread(lambda name: self._put_file(folder / name, name), names)

    def get(self, folder: Path, names: Iterable[str]) -> None:
        """Fetch objects into a local folder; those that are not there are passed over.

        Raises:
            RunError: a name leads out of the folder, as no dataset's does.
        """
        names = list(names)
        for name in names:
            if name.startswith("/") or ".." in name.split("/"):
                raise RunError(f"{self.url} speaks of {name!r}, which leads out of it: it is damaged")
        self._spread(lambda name: self._get_file(folder / name, name), names)

    def _put_file(self, path: Path, name: str) -> None:
        fs, root = self._open()
        target = f"{root}/{name}"

        def put() -> None:
            self._make_parent(fs, target)
            fs.put_file(str(path), target)
            fs.invalidate_cache()
            sent, arrived = path.stat().st_size, fs.info(target)["size"]
            if arrived != sent:
                raise OSError(f"{arrived:,} of {sent:,} bytes arrived")

        self._try(name, put)

    def _get_file(self, path: Path, name: str) -> None:
        fs, root = self._open()
        path.parent.mkdir(parents=True, exist_ok=True)

        def get() -> None:
            with disk_errors(path):
                fs.get_file(f"{root}/{name}", str(path))

        self._try(name, get, absent=lambda: path.unlink(missing_ok=True))

    def _spread(self, each: Callable[[str], None], names: Iterable[str]) -> None:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for _ in pool.map(each, names):
                pass

    def _open(self) -> tuple[Any, str]:
        """The file system, which fsspec keeps one of in a process, and the path of the folder in it."""
        try:
            from fsspec.core import url_to_fs

            fs, root = url_to_fs(self.url)
        except ImportError:
            package = _INSTALL.get(self.url.partition("://")[0], "the fsspec package of that file system")
            raise UserError(f"{self.url} needs {package}: pip install {package!r}") from None
        except ValueError as error:
            raise UserError(f"{self.url} is no address that fsspec knows: {_line(error)}") from None
        root = str(root).rstrip("/")
        if not root and not self.in_process:
            raise UserError(f"{self.url} names no bucket or folder: give one, as s3://bucket/folder")
        return fs, root

    @staticmethod
    def _make_parent(fs: Any, path: str) -> None:
        """Object stores have no folders, and some would make a bucket."""
        kinds = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        if not _STORES.intersection(kinds):
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)

    def _try(
        self, name: str, call: Callable[[], Result], *, absent: Callable[[], Result] | None = None
    ) -> Result:
        """What the call gives, tried again where the network is to blame.

        Args:
            name: of the object, for people.
            absent: gives the result where there is no such object; None where that is an error.

        Raises:
            UserError: there is no bucket, or no right to do this.
            RunError: it failed each time.
        """
        where = f"{self.url.rstrip('/')}/{name}" if name else self.url
        for wait_s in (*WAITS_S, None):
            try:
                return call()
            except FileNotFoundError as error:
                if absent is not None:
                    return absent()
                raise UserError(
                    f"{where} is not there ({_line(error)}): make the bucket, or give another"
                ) from None
            except NotImplementedError:
                raise UserError(
                    f"{where}: its file system cannot do this: give one that reads and writes"
                ) from None
            except _errors() as error:
                if type(error).__name__ in _NO_KEY:
                    raise UserError(
                        f"{where} needs credentials ({_line(error)}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                        "or a profile"
                    ) from None
                if isinstance(error, PermissionError):
                    raise UserError(
                        f"{where} is forbidden ({_line(error)}): give credentials that may read and write it"
                    ) from None
                if wait_s is None or isinstance(error, _FINAL):
                    raise RunError(
                        f"{where} failed ({_line(error)}): finished shards are kept, so run the same command again"
                    ) from error
                say(f"{where}: {_line(error)}; trying again in {wait_s:g} s")
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")


def _errors() -> tuple[type[Exception], ...]:
    """What stores and networks raise: errors of the system, and of the clients that are loaded."""
    found: list[type[Exception]] = [OSError, EOFError]
    for module, names in _LIBRARIES.items():
        if module in sys.modules:
            found += (getattr(sys.modules[module], name) for name in names)
    return tuple(found)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
