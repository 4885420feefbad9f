"""What a dataset behind fsspec holds, as far as it can be told without its images."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.marker import (
    CARD,
    DOCUMENT,
    SUCCESS,
    WORKERS,
    ShardFiles,
    document_digest,
    parse_document,
    parse_marker,
)
from d2r_fast.engine.remote import Remote


def read_remote_document(remote: Remote) -> dict[str, Any] | None:
    """The dataset's document; None where nothing is there at all.

    Raises:
        UserError: it is damaged, or something else is there; or as `Remote.sizes`.
    """
    data = remote.read(DOCUMENT)
    if data is not None:
        return parse_document(data, f"{remote}/{DOCUMENT}")
    foreign = sorted(remote.sizes())
    if foreign:
        raise UserError(
            f"out {remote} holds {foreign[0]} and no {DOCUMENT}, so it is no dataset of d2r-fast: give an empty folder"
        )
    return None


def finished_shards(
    remote: Remote, document: Mapping[str, Any], shards: Iterable[int]
) -> dict[int, dict[str, Any]]:
    """Markers of those of the shards that are finished: whole, this dataset's, and every file there with the size
    that its marker gives it. Whatever is wrong with the others, they are made again."""
    sizes, digest = remote.sizes(), document_digest(document)
    there = {shard: name for shard in shards if (name := ShardFiles.of(shard).stats) in sizes}
    data = remote.read_all(there.values())
    found = {}
    for shard, name in there.items():
        try:
            marker = parse_marker(data[name] or b"", shard, format=document["format"], dataset=digest)
        except ValueError:
            continue
        if all(sizes.get(file) == entry["bytes"] for file, entry in marker["files"].items()):
            found[shard] = marker
    return found


def claim(remote: Remote, data: bytes) -> None:
    """Put the document unless there is one.

    Raises:
        RunError: somebody else put another at the same time.
    """
    if remote.create(DOCUMENT, data) != data:
        raise RunError(
            f"{remote} was begun by another run with other settings at the same time: run the same command again, "
            "which names them"
        )


def close_up(remote: Remote, stage: Path) -> None:
    """Every shard is there: put the card, unless there is one that somebody may have edited, and last _SUCCESS."""
    forget_workers(remote, lambda note: True)
    remote.create(CARD, (stage / CARD).read_bytes())
    remote.create(SUCCESS, (stage / SUCCESS).read_bytes())


def forget_workers(remote: Remote, is_past: Callable[[bytes], bool]) -> None:
    """Delete what workers said of themselves that are gone."""
    workers = Remote(f"{remote.url.rstrip('/')}/{WORKERS}")
    for name, note in workers.read_all(workers.sizes()).items():
        if note is not None and is_past(note):
            workers.remove(name)


@contextmanager
def outline(remote: Remote) -> Iterator[Path]:
    """A temporary folder that looks like the dataset to who asks for names and sizes: documents, logs and markers are
    there, all other files are holes of their size, and of folders of images there are the names.

    Raises:
        UserError, RunError: as `Remote.sizes`.
    """
    with TemporaryDirectory(prefix="d2r-fast-") as temporary:
        folder, small = Path(temporary), []
        for name, num_bytes in remote.sizes().items():
            path = folder / name
            if name.endswith((".json", ".jsonl")) and ("/" not in name or name.startswith(f"{WORKERS}/")):
                small.append(name)
            elif "/" in name:
                (folder / name.split("/")[0]).mkdir(exist_ok=True)
            else:
                with path.open("wb") as file:
                    file.truncate(num_bytes)
        remote.get(folder, small)
        for name in small:
            os.utime(folder / name, (0, 0))  # when it was fetched says nothing of a worker's age
        yield folder


@contextmanager
def shard_copy(remote: Remote, document: Mapping[str, Any], shard: int) -> Iterator[Path]:
    """A temporary folder with the files of one shard, as far as they are there."""
    with TemporaryDirectory(prefix="d2r-fast-") as temporary:
        folder, stats = Path(temporary), ShardFiles.of(shard).stats
        remote.get(folder, [stats])
        try:
            data = (folder / stats).read_bytes()
            marker = parse_marker(data, shard, format=document["format"], dataset=document_digest(document))
        except (FileNotFoundError, ValueError):
            marker = {"files": {}}
        remote.get(folder, marker["files"])
        yield folder
