"""Our own finished datasets of tars as a source: images by identity and name, as their tables have them.

An image is called as the same dataset's imagefolder calls its file, so that both read alike.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.marker import ShardFiles, document_digest, kind_of, read_document, read_marker
from d2r_fast.engine.open_files import OpenFiles
from d2r_fast.engine.rows import ROWS, AnyImageRow, read_table
from d2r_fast.engine.sources.packed import Entries, Files, PackedSource
from d2r_fast.engine.sources.tar_members import tar_members
from d2r_fast.engine.sources.tars import read_part


def open_dataset_tars(root: Path) -> PackedSource:
    """The webdataset in `root`.

    Raises:
        UserError: a shard is unfinished, or does not hold what its table says.
    """
    document = read_document(root)
    suffix = document["recipe"]["image_format"]
    paths, entries = [], Entries()
    for shard, _ in enumerate(finished_markers(root, document)):
        paths.append(root / ShardFiles.of(shard).tar)
        members = {member.name: member for member in tar_members(paths[-1])}
        rows = written_rows(root, document, shard)
        names = image_names(rows, suffix)
        for row in rows:
            member = members.get(f"{row.key}.{row.suffix(suffix)}")
            if member is None:
                raise UserError(
                    f"{paths[-1]} lacks {row.key}.{row.suffix(suffix)}: run `d2r-fast verify {root}`"
                )
            entries.add(row.identity, names[row.key], shard, member.offset, member.size)

    def shown(shard: int, identity: str, name: str) -> Path:
        return paths[shard] / identity / name

    return PackedSource(Files(root, paths, partial(read_part, OpenFiles(paths)), shown), entries)


def image_names(rows: Sequence[AnyImageRow], image_format: str) -> dict[str, str]:
    """What each image is called, by key: as in an imagefolder, or by its key where two would be called alike."""
    times = Counter((row.label, row.file_name(image_format)) for row in rows)
    return {
        row.key: name if times[row.label, name] == 1 else f"{row.key}.{row.suffix(image_format)}"
        for row in rows
        for name in [row.file_name(image_format)]
    }


def finished_markers(root: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Markers of all shards, in order.

    Raises:
        UserError: a shard is unfinished.
    """
    digest, num_shards = document_digest(document), document["plan"]["num_shards"]
    markers, missing = [], []
    for shard in range(num_shards):
        try:
            markers.append(read_marker(root, shard, format=document["format"], dataset=digest))
        except ValueError as error:
            missing.append(str(error))
    if missing:
        raise UserError(
            f"dataset {root} is unfinished: {len(missing):,} of {num_shards:,} shards are not whole ({missing[0]}): "
            "run the command that makes it again, until it is done"
        )
    return markers


def written_rows(root: Path, document: dict[str, Any], shard: int) -> list[AnyImageRow]:
    """Rows of a shard's images, in order.

    Raises:
        UserError: the shard's table is damaged, or the dataset of an unknown kind.
    """
    kind = kind_of(document)
    if kind not in ROWS:
        raise UserError(
            f"{root} is a {kind} dataset, expected a {' or '.join(ROWS)} one: run `d2r-fast verify {root}`"
        )
    try:
        rows = read_table(ROWS[kind], root / ShardFiles.of(shard).rows)
    except ValueError as error:
        raise UserError(f"{root}: {error}: run `d2r-fast verify {root}`") from None
    return [row for row in rows if row.status == "written"]
