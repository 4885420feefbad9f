"""Writing one shard: its images, its tables, and last the marker that makes it count.

The bytes are a function of the rows and images alone: not of the process, the clock, or what an earlier try
left behind. A shard that was cut short is written again from the start.
"""

import io
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import (
    Written,
    check_space,
    disk_errors,
    open_atomic,
    sync_folder,
    write_atomic,
    write_synced,
)
from d2r_fast.engine.marker import (
    CARD,
    DOCUMENT,
    SCHEMA,
    STATUSES,
    SUCCESS,
    WORKERS,
    Format,
    ShardFiles,
    document_digest,
    dump,
    dump_line,
    image_key,
    is_events,
    kind_of,
    read_document,
    shard_number,
)  # fmt: skip
from d2r_fast.engine.rows import ROWS, AnyImageRow, IdentityRow, Problem, as_dict, row_json, table_bytes

ImageFormat = Literal["jpg", "png"]

_FLUSHES = 8
"""Files that are flushed at once."""
_TAR_OVERHEAD = 4096
"""Bytes that a sample takes in a tar beyond its image, at most: three headers, padding, row and label."""


def encode(image: NDArray[np.uint8], image_format: ImageFormat, quality: int) -> bytes:
    """File of an image, uint8 (H, W, 3) RGB. JPEG keeps the colour of every pixel (4:4:4); `quality` is its 1
    to 100, and PNG's is lossless whatever it says.

    PNG is packed by runs alone: faces of 112 pixels take a quarter of the time of zlib's default and at most 4 % more
    bytes (AMD EPYC, one core: 0.66 ms for 2.6, DigiFace's 17.4 kB as before; at 512 pixels 15 ms for 58, 5 % more).
    """
    buffer = io.BytesIO()
    if image_format == "png":
        Image.fromarray(image).save(buffer, "PNG", compress_type=zlib.Z_RLE)
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def check_names(identities: Iterable[str], *, format: Format) -> None:
    """See that no identity's folder would take the place of one of the dataset's own files.

    Raises:
        UserError: one would.
    """
    if format != "imagefolder":
        return
    for name in identities:
        if (
            name in {DOCUMENT, CARD, SUCCESS, WORKERS}
            or is_events(name)
            or name.startswith(".")
            or shard_number(name) is not None
        ):
            raise UserError(
                f"identity {name} has the name of a file of the dataset: rename its source folder, or use "
                "--format webdataset"
            )


def write_shard(
    folder: Path,
    shard: int,
    *,
    rows: Sequence[AnyImageRow],
    images: Mapping[str, bytes],
    identities: Sequence[IdentityRow],
    errors: Iterable[Problem],
    format: Format,
    image_format: str,
) -> dict[str, Any]:
    """Write shard number `shard` of the dataset in `folder`, which has its document, and return its marker.

    `rows` has one row per wanted image in the order of (label, image), `identities` one per identity in the
    order of labels, `images` the encoded file of every written row by its key; `errors` come in any order.

    Raises:
        RunError: the disk is full, or has no room for the shard, in which case nothing of it is written.
        UserError: the folder may not be written to.
    """
    _check(rows, images, identities)
    document, names = read_document(folder), ShardFiles.of(shard)
    kind, dataset = ROWS[kind_of(document)], document_digest(document)
    image_bytes = sum(len(data) + _TAR_OVERHEAD for data in images.values())
    check_space(folder, needed_bytes=image_bytes)
    (folder / names.stats).unlink(missing_ok=True)

    files: dict[str, Written] = {}
    if format == "webdataset":
        files[names.tar] = _write_tar(
            folder / names.tar, rows, images, image_format, needed_bytes=image_bytes
        )
    else:
        files |= _write_folders(folder, shard, rows, images, image_format)
    files[names.rows] = write_atomic(folder / names.rows, table_bytes(kind, rows))
    files[names.identities] = write_atomic(folder / names.identities, table_bytes(IdentityRow, identities))
    files[names.errors] = write_atomic(folder / names.errors, _error_lines(errors, identities))

    marker = _marker(shard, dataset, rows, files)
    write_atomic(folder / names.stats, dump(marker))
    return marker


def _check(
    rows: Sequence[AnyImageRow], images: Mapping[str, bytes], identities: Sequence[IdentityRow]
) -> None:
    order = [(row.label, row.image) for row in rows]
    assert order == sorted(set(order)), "rows are not in the order of (label, image), each once"
    assert all(row.key == image_key(row.label, row.image) for row in rows), (
        "a row's key is not its label and image"
    )
    assert all((row.reason is None) == (row.status == "written") for row in rows), (
        "reason goes with not written"
    )
    assert {row.key for row in rows if row.status == "written"} == images.keys(), (
        "images are not the written rows'"
    )
    labels = [row.label for row in identities]
    assert labels == sorted(set(labels)), "identities are not in the order of labels, each once"
    by_label = {row.label: row.identity for row in identities}
    assert all(by_label[row.label] == row.identity for row in rows), "a row's identity is not its label's"


def _write_tar(
    path: Path, rows: Sequence[AnyImageRow], images: Mapping[str, bytes], suffix: str, *, needed_bytes: int
) -> Written:
    from webdataset import TarWriter  # which imports torch: who writes folders starts sooner

    with (
        open_atomic(path, needed_bytes=needed_bytes) as file,
        TarWriter(file, encoder=False, mtime=0, user="", group="", mode=0o644, compress=False) as tar,
    ):
        for row in rows:
            if row.status == "written":
                tar.write({
                    "__key__": row.key, "cls": str(row.label).encode(), row.suffix(suffix): images[row.key],
                    "json": row_json(row),
                })  # fmt: skip
    return file.written()


def _write_folders(
    folder: Path, shard: int, rows: Sequence[AnyImageRow], images: Mapping[str, bytes], suffix: str
) -> dict[str, Written]:
    """One folder per identity that has an image; all are whole on disk before the first becomes visible."""
    staging = folder / f".{shard:05d}.{os.getpid()}.tmp"
    new, old = staging / "new", staging / "old"
    try:
        with disk_errors(folder, needed_bytes=sum(map(len, images.values()))):
            new.mkdir(parents=True)
            old.mkdir()
            named = {
                f"{row.identity}/{row.file_name(suffix)}": images[row.key]
                for row in rows
                if row.status == "written"
            }
            files = _write_synced(new, named)
            for identity in sorted(new.iterdir()):
                _replace_folder(identity, folder / identity.name, old)
            sync_folder(folder)
    finally:
        # Whatever this cannot delete, the next start does; the error that brought us here matters more.
        shutil.rmtree(staging, ignore_errors=True)
    return files


def _write_synced(folder: Path, named: Mapping[str, bytes]) -> dict[str, Written]:
    """Files of `<identity>/<name>` in new folders, flushed several at a time, at about the cost of one."""
    for identity in {name.split("/")[0] for name in named}:
        (folder / identity).mkdir()
    with ThreadPoolExecutor(_FLUSHES) as pool:
        written = pool.map(write_synced, [folder / name for name in named], named.values())
        files = dict(zip(named, written, strict=True))
        list(pool.map(sync_folder, folder.iterdir()))
    return files


def _replace_folder(prepared: Path, target: Path, old: Path) -> None:
    """A folder cannot be renamed over a full one, so what a killed try left is moved aside first."""
    if target.exists():
        target.rename(old / target.name)
    prepared.rename(target)


def _error_lines(errors: Iterable[Problem], identities: Sequence[IdentityRow]) -> bytes:
    label = {row.identity: row.label for row in identities}
    ordered = sorted(errors, key=lambda e: (label[e.identity], e.key, e.stage, e.error, e.reason))
    return b"".join(dump_line(as_dict(error)) for error in ordered)


def _marker(
    shard: int, dataset: str, rows: Sequence[AnyImageRow], files: Mapping[str, Written]
) -> dict[str, Any]:
    """What `NNNNN_stats.json` says. `dataset` ties it to its document: a shard of another run is not ours."""
    counts: dict[str, int] = {status: sum(row.status == status for row in rows) for status in STATUSES}
    head = {"schema": SCHEMA, "shard": shard, "dataset": dataset, "wanted": len(rows)}
    return {**head, **counts, "files": {name: files[name].entry() for name in sorted(files)}}
