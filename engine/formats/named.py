"""Labels, names and records that lie beside the images, in the forms that we write ourselves."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.listing import Part, Person
from d2r_fast.engine.marker import (
    CONVERTED,
    DOCUMENT,
    TRANSLATED,
    ShardFiles,
    dump,
    dump_line,
    kind_of,
    read_document,
)
from d2r_fast.engine.rows import ConvertedRow, IdentityRow, WantedRow, as_dict, read_table
from d2r_fast.engine.source import Source, is_image
from d2r_fast.engine.sources.datasets import finished_markers, image_names, written_rows
from d2r_fast.engine.sources.record_files import RECORDS, RecordFiles

ORIGIN, LABELS, LIST = "origin.json", "labels.txt", "train.lst"
"""What a RecordIO or parquet folder of ours says of itself; the identities by line; InsightFace's list."""
FEATURES = b"huggingface"


def documents_of(path: Path) -> list[dict[str, Any]]:
    """What the folder says of itself: none where it is no dataset of ours.

    Raises:
        UserError: it is damaged.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (folder / DOCUMENT).exists():
        return [_checked(read_document(folder), folder / DOCUMENT)]
    origin = folder / ORIGIN
    if not origin.exists():
        return []
    try:
        document = json.loads(origin.read_bytes())
        dump(document)
    except (OSError, ValueError, RecursionError):
        document = None
    return [_checked(document, origin)]


def _checked(document: Any, path: Path) -> dict[str, Any]:
    """A document that has what a card shows of it."""
    found = document if isinstance(document, dict) else {}
    models, plan = found.get("models"), found.get("plan")
    whole = (
        isinstance(plan, dict)
        and type(plan.get("num_identities")) is int
        and isinstance(found.get("source"), dict)
        and isinstance(models, dict)
        and all(
            isinstance(each, dict) and {"file", "licence", "sha256"} <= each.keys()
            for each in models.values()
        )
        and isinstance(found.get("licences"), list)
        and (kind_of(found) != TRANSLATED or "method" in found.get("recipe", {}))
        and (kind_of(found) != CONVERTED or isinstance(found.get("made_from"), list))
    )
    if not whole:
        raise UserError(f"{path} is damaged: put the original back")
    return found


def named_people(path: Path, source: Source) -> list[Person] | None:
    """People of `source` in the order of their labels, with the names that a form of ours keeps; None of others.

    Raises:
        UserError: names and images do not fit each other.
    """
    folder = path.parent if path.name.startswith("train.") else path
    if (folder / DOCUMENT).exists():
        return list(_of_dataset(folder, source))
    if (folder / RECORDS).exists():
        return list(_of_records(folder, source))
    return _of_tables(path, source)


def _of_dataset(folder: Path, source: Source) -> Iterator[Person]:
    """By the tables of the shards."""
    document = read_document(folder)
    image_format = document["recipe"]["image_format"]
    for shard, _ in enumerate(finished_markers(folder, document)):
        rows: dict[int, list[WantedRow]] = {}
        written = written_rows(folder, document, shard)
        for row in written:
            rows.setdefault(row.label, []).append(row)
        names = (
            image_names(written, image_format)
            if document["format"] == "webdataset"
            else {row.key: row.file_name(image_format) for row in written}
        )
        try:
            identities = read_table(IdentityRow, folder / ShardFiles.of(shard).identities)
        except ValueError as error:
            raise UserError(f"{folder}: {error}: run `d2r-fast verify {folder}`") from None
        for identity in identities:
            own = rows.get(identity.label, [])
            images = [source.image(identity.identity, names[row.key]) for row in own]
            yield Person(identity.identity, (Part(source, images, records=[_record(row) for row in own]),))


def _record(row: WantedRow) -> str | None:
    """A row as JSON; of an image that was converted before, the row that it had at first."""
    if isinstance(row, ConvertedRow):
        return row.record
    return dump_line(as_dict(row)).decode().rstrip("\n")


def _of_records(folder: Path, source: Source) -> Iterator[Person]:
    """By labels.txt and train.lst, where they are; else by labels and keys."""
    records = RecordFiles(folder)
    names = _labels(folder / LABELS)
    paths = _paths(folder / LIST)
    found = {int(identity.name): identity.images for identity in source.identities}
    num_classes = max(len(names), records.announced or 0, max(found, default=-1) + 1)
    if names and len(names) < num_classes:
        raise UserError(
            f"{folder / LABELS} names {len(names):,} identities of {num_classes:,}: copy it again"
        )
    for label in range(num_classes):
        images = found.get(label, ())
        called = [paths.get(int(image.name.partition(".")[0]), image.name) for image in images]
        yield Person(names[label] if names else str(label), (Part(source, images, called),))


def _labels(path: Path) -> list[str]:
    """Names of the identities, one a line; none where there is no such file."""
    if not path.exists():
        return []
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy it again, or move it away") from None


def _paths(path: Path) -> dict[int, str]:
    """File names by key, of a list of key, label and path; nothing where there is no such list.

    Lists of other makers have other columns; then images are called by their keys.
    """
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        found = {int(key): PurePosixPath(name).name for key, _, name in rows}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): copy it again, or move it away") from None
    except (ValueError, csv.Error):
        return {}
    return found if len(found) == len(rows) and all(map(is_image, found.values())) else {}


def _of_tables(path: Path, source: Source) -> list[Person] | None:
    """By the columns of parquet files that say label and identity, in the order of their rows."""
    paths = (
        [path] if path.suffix == ".parquet" else sorted(path.glob("[!.]*.parquet")) if path.is_dir() else []
    )
    if not paths:
        return None
    people: dict[int, tuple[str, list[str], list[str | None]]] = {}
    try:
        schema = pq.read_schema(paths[0])
        wanted = {"label": pa.int64(), "identity": pa.string(), "record": pa.string()}
        if any(name not in schema.names or schema.field(name).type != kind for name, kind in wanted.items()):
            return _in_order_of(_classes(schema), source)
        for file in paths:
            table = pq.ParquetFile(file).read(columns=["label", "identity", "record", "image.path"])
            for row in table.to_pylist():
                _, names, records = people.setdefault(row["label"], (row["identity"], [], []))
                names.append(row["image"]["path"])
                records.append(row["record"])
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise UserError(f"source {path} is damaged ({reason}): copy it again") from None
    classes = _classes(schema)
    beyond = [label for label in people if label is None or not 0 <= label < len(classes)]
    if beyond or any(name is None for _, names, _ in people.values() for name in names):
        what = f"label {beyond[0]} of {len(classes):,} classes" if beyond else "an image without a path"
        raise UserError(f"source {path} is damaged ({what}): copy it again")
    return [
        _person(source, name, *people.get(label, (name, [], []))[1:]) for label, name in enumerate(classes)
    ]


def _in_order_of(classes: Sequence[str], source: Source) -> list[Person] | None:
    """Identities in the order of a table's classes, which they are called by; None where there are none."""
    images = {identity.name: identity.images for identity in source.identities}
    if not images.keys() <= set(classes):
        return None
    return [Person(name, (Part(source, images.get(name, ())),)) for name in classes]


def _person(source: Source, name: str, names: Sequence[str], records: Sequence[str | None]) -> Person:
    images = [source.image(name, PurePosixPath(each).name) for each in names]
    return Person(name, (Part(source, images, records=records),))


def _classes(schema: pa.Schema) -> list[str]:
    """Names of the labels in order, as `datasets` keeps them; none where it keeps none."""
    try:
        names = json.loads((schema.metadata or {})[FEATURES])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
