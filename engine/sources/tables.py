"""Parquet with image files in it: an image column as `datasets` writes it, or a plain column of bytes.

Whom a row shows stands in a column `identity` or else `label`; numbers that `datasets` has names for are called by
their names. An image is called as its structure's `path` or a column `name` says, else by its row.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import is_image
from d2r_fast.engine.sources.packed import Entries, Files, PackedSource, check_identity
from d2r_fast.engine.sources.row_groups import RowGroups
from d2r_fast.engine.sources.suffixes import suffix_of

LABELS, NAMES = ("identity", "label"), ("name", "file_name", "filename", "key")
_ADVICE = (
    "give a column `image` of bytes, or of a structure of bytes and path as `datasets` writes, and a column `label` or "
    "`identity`"
)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns mean what. `image` and `name` may be parts of a structure: "image.bytes"."""

    image: str
    name: str | None
    label: str | None
    classes: Sequence[str] | None


def open_tables(root: Path, paths: Sequence[Path], *, labelled: bool) -> PackedSource:
    """Open parquet files of one set.

    Raises:
        UserError: a file cannot be read, is damaged, lacks columns or has others than the first, or a row has no label.
    """
    metadata = [_metadata(path) for path in paths]
    columns = _find(metadata[0].schema.to_arrow_schema(), paths[0], labelled=labelled)
    groups = RowGroups(paths, metadata, columns.image)
    entries, number = Entries(), 0
    for file, path in enumerate(paths):
        if _find(metadata[file].schema.to_arrow_schema(), path, labelled=labelled) != columns:
            raise UserError(f"{path} has other columns than {paths[0]}: give files of one set")
        suffix = cache(partial(_suffix, groups, file, metadata[file]))  # takes unpacking, if a name lacks it
        for group, row, identity, name in _rows(path, metadata[file], columns):
            called = name if name and is_image(name) else f"{name or number}.{suffix()}"
            entries.add(called if identity is None else identity, called, file, group, row)
            number += 1
    if not number:
        raise UserError(f"source {root} holds no rows: {_ADVICE}")

    def shown(file: int, identity: str, name: str) -> Path:
        return paths[file] / identity / name

    return PackedSource(Files(root, paths, groups.read, shown), entries)


def _metadata(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"source {path} is no whole parquet file ({reason}): copy it again") from None


def _find(schema: pa.Schema, path: Path, *, labelled: bool) -> _Columns:
    images = {field.name: _image_column(field) for field in schema if _image_column(field) is not None}
    found = images.get("image") if "image" in images else next(iter(images.values()), None)
    if found is None or (len(images) > 1 and "image" not in images):
        raise UserError(
            f"source {path} has {len(images)} columns of images ({', '.join(schema.names)}): {_ADVICE}"
        )
    label = next((name for name in LABELS if name in schema.names), None)
    if label is None and labelled:
        raise UserError(f"source {path} has no column of labels ({', '.join(schema.names)}): {_ADVICE}")
    if label is not None and not _is_label(schema.field(label).type):
        raise UserError(f"column {label} of {path} is {schema.field(label).type}: give whole numbers or text")
    return _Columns(found, _name_column(schema, found), label, _classes(schema, label))


def _name_column(schema: pa.Schema, image: str) -> str | None:
    """Which column of text says what images are called; None where none does."""
    column, _, part = image.partition(".")
    kind = schema.field(column).type
    if part and kind.get_field_index("path") >= 0 and _is_text(kind.field("path").type):
        return f"{column}.path"
    return next((name for name in NAMES if name in schema.names and _is_text(schema.field(name).type)), None)


def _image_column(field: pa.Field) -> str | None:
    """What a column's bytes are called; None where it holds none."""
    kind = field.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{field.name}.bytes" if _is_binary(kind.field("bytes").type) else None
    return field.name if _is_binary(kind) else None


def _is_binary(kind: pa.DataType) -> bool:
    kinds = pa.types
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    kinds, kind = pa.types, _meant(kind)
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _is_label(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(_meant(kind))) or _is_text(kind)


def _meant(kind: pa.DataType) -> pa.DataType:
    """What the values of a column are, which a dictionary of few, as pandas keeps categories, may stand for."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _classes(schema: pa.Schema, label: str | None) -> Sequence[str] | None:
    """Names that `datasets` keeps of a column of class numbers; None where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _suffix(groups: RowGroups, file: int, metadata: pq.FileMetaData) -> str:
    """What images without a name are called in a file that has rows: by the first of them."""
    first = next(group for group in range(metadata.num_row_groups) if metadata.row_group(group).num_rows)
    try:
        return suffix_of(groups.read((file, first, 0)))
    except OSError:
        return "jpg"


def _rows(
    path: Path, metadata: pq.FileMetaData, columns: _Columns
) -> Iterator[tuple[int, int, str | None, str | None]]:
    """Row group, row in it, identity and name of every row; None where no column says it."""
    wanted = [column for column in (columns.label, columns.name) if column is not None]
    first = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        try:
            with pq.ParquetFile(path, metadata=metadata, pre_buffer=False) as table:
                read = table.read_row_group(group, columns=wanted, use_threads=False)
            labels = _values(read, columns.label, count)
            names = _values(read, columns.name, count)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}): copy it again") from None
        for row, (label, name) in enumerate(zip(labels, names, strict=True)):
            yield (
                group,
                row,
                _identity(label, columns, f"row {first + row} of {path}"),
                name and PurePosixPath(name).name,
            )
        first += count


def _values(table: pa.Table, column: str | None, count: int) -> list[Any]:
    if column is None:
        return [None] * count
    name, _, part = column.partition(".")
    values: list[Any] = table.column(name).to_pylist()
    return [value and value[part] for value in values] if part else values


def _identity(label: Any, columns: _Columns, said_by: str) -> str | None:
    if columns.label is None:
        return None
    if columns.classes is not None and isinstance(label, int) and 0 <= label < len(columns.classes):
        label = columns.classes[label]
    return check_identity("" if label is None else str(label), said_by)
