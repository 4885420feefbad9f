"""Where a run's shards go: a folder, or by way of a folder on this machine's disk a dataset behind fsspec.

Shards are made in the folder as ever, the stage of a remote dataset. Each that is finished is sent on, its marker
last, and then deleted. What the remote dataset holds is told from its own markers, so a stage may be lost at any time.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import make_folder, write_atomic
from d2r_fast.engine.marker import DOCUMENT, ShardFiles, document_digest, dump
from d2r_fast.engine.remote import Remote


class Outgoing(Protocol):
    """The settings that say where: those of `generate` and `translate`."""

    @property
    def out(self) -> Path | str: ...
    @property
    def stage(self) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class Out:
    """Where shards are made, and where they then go, if anywhere."""

    folder: Path
    remote: Remote | None = None

    def __str__(self) -> str:
        return str(self.remote or self.folder)

    def prepare(self, document: Mapping[str, Any]) -> None:
        """Make the stage on a machine that may have none yet, for the dataset of this document."""
        if self.remote is not None:
            make_folder(self.folder)
            if not (self.folder / DOCUMENT).exists():
                write_atomic(self.folder / DOCUMENT, dump(document))

    def deliver(self, marker: Mapping[str, Any]) -> None:
        """A shard is finished in the folder: send it on.

        Raises:
            RunError, UserError: the store failed; there is no marker of the shard then, or no other than there was.
        """
        if self.remote is None:
            return
        stats, files = ShardFiles.of(marker["shard"]).stats, sorted(marker["files"])
        if self.remote.read(stats) not in (None, dump(marker)):
            self.remote.remove(stats)  # it would speak of files that are about to change
        self.remote.put(self.folder, files)
        self.remote.put(self.folder, [stats])
        self._forget([stats, *files])

    def _forget(self, names: list[str]) -> None:
        for name in names:
            (self.folder / name).unlink()
        for name in sorted({name.split("/")[0] for name in names if "/" in name}):
            with suppress(OSError):  # somebody put something there
                (self.folder / name).rmdir()


def find_out(config: Outgoing, document: Mapping[str, Any], *, here: bool) -> Out:
    """The place that the settings name for the dataset of this document.

    Args:
        here: whether shards are made in this process.

    Raises:
        UserError: it cannot be that.
    """
    if isinstance(config.out, Path):
        if config.stage is not None:
            raise UserError(
                f"--stage is for an --out such as s3://bucket/folder: leave it out for {config.out}"
            )
        return Out(config.out)
    remote = Remote(config.out)
    if remote.in_process and not here:
        raise UserError(f"out {remote} is seen by one process alone: give --executor local and --workers 1")
    return Out((config.stage or _cache()) / _name(remote, document), remote)


def _name(remote: Remote, document: Mapping[str, Any]) -> str:
    """Of the stage: one for each dataset, so that none finds the files of another."""
    url = remote.url.rstrip("/")
    digest = hashlib.sha256(f"{url} {document_digest(document)}".encode()).hexdigest()
    return f"{re.sub('[^A-Za-z0-9]+', '-', url)[-60:].strip('-')}-{digest[:16]}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d2r-fast" / "stage"
