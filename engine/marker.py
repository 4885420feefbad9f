"""One shard of a dataset on disk: the names of its files, and the marker that says it is finished.

A shard is finished when its `NNNNN_stats.json`, written last, is whole, belongs to this dataset, and every
file it lists is there with the size it lists. A resume reads thousands of markers; contents are for `verify`.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from d2r_fast.engine.errors import UserError

SCHEMA = 1
DOCUMENT = "dataset.json"
EVENTS = "events.jsonl"
CARD = "README.md"
SUCCESS = "_SUCCESS"
WORKERS = "workers"
"""Folder of what the processes at work say of themselves; it goes when the dataset is whole."""

Format = Literal["webdataset", "imagefolder"]
Status = Literal["written", "rejected", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
COUNTS = ("wanted", *STATUSES)
GENERATED, TRANSLATED, CONVERTED = "generated", "translated", "converted"
"""Kinds of dataset: images drawn of identities, each made from one of the source's, or the source's own."""
COMMANDS = {GENERATED: "generate", TRANSLATED: "translate", CONVERTED: "convert"}
"""What makes a dataset, by its kind."""

_EVENTS_FILE = re.compile(r"^events(-\d{5,}-\d{5,})?\.jsonl$")
_SHARD_FILE = re.compile(r"^(\d{5,})(\.tar|\.parquet|_identities\.parquet|_errors\.jsonl|_stats\.json)$")


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """File names of one shard. `tar` exists in the webdataset format alone."""

    tar: str
    rows: str
    identities: str
    errors: str
    stats: str

    @classmethod
    def of(cls, shard: int) -> "ShardFiles":
        number = f"{shard:05d}"
        return cls(f"{number}.tar", f"{number}.parquet", f"{number}_identities.parquet",
                   f"{number}_errors.jsonl", f"{number}_stats.json")  # fmt: skip

    def listed(self, format: Format) -> tuple[str, ...]:
        """Names that the marker lists in any case; an imagefolder's marker lists its images besides."""
        tables = (self.rows, self.identities, self.errors)
        return (self.tar, *tables) if format == "webdataset" else tables

    def all(self, format: Format) -> tuple[str, ...]:
        """The same and the marker."""
        return (*self.listed(format), self.stats)


def shard_number(name: str) -> int | None:
    """Which shard a file of this name belongs to; None where it is no shard's file."""
    match = _SHARD_FILE.match(name)
    return int(match[1]) if match else None


def events_name(shards: range | None) -> str:
    """Name of the log of a run that makes these shards; None: all that are not finished."""
    return EVENTS if shards is None else f"events-{shards.start:05d}-{shards.stop:05d}.jsonl"


def is_events(name: str) -> bool:
    """Whether a file of this name is a run's log."""
    return _EVENTS_FILE.match(name) is not None


def image_key(label: int, image: int) -> str:
    """Name of an image throughout: tar member, table key."""
    return f"{label:06d}_{image:03d}"


def dump(value: Any) -> bytes:
    """JSON for people and machines: one canonical form per value, UTF-8, keys in the order given."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def dump_line(value: Any) -> bytes:
    """The same on one line, as in .jsonl files and tar members."""
    return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()


def document_digest(document: Mapping[str, Any]) -> str:
    """Hex SHA-256 of what a dataset's document says, whatever its spacing or order of keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_document(folder: Path) -> dict[str, Any]:
    """The document of the dataset in `folder`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / DOCUMENT
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no {DOCUMENT}, so it is no dataset of d2r-fast: check the path"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): see that it is a readable file") from None
    return parse_document(data, path)


def parse_document(data: bytes, path: object) -> dict[str, Any]:
    """The same of a document's bytes; `path` is for the message."""
    try:
        document = json.loads(data)
        dump(document)  # refuses what no JSON file may hold: NaN, 1e999, half of a surrogate pair
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("plan"), dict):
        raise UserError(f"{path} is damaged: put the original back, or start again in an empty folder")
    return document


def kind_of(document: Mapping[str, Any]) -> str:
    """One of the kinds; whatever else it is, of a document that no version writes."""
    return str(document.get("kind", GENERATED))


def read_marker(
    folder: Path, shard: int, *, format: Format, dataset: str, images: bool = True
) -> dict[str, Any]:
    """The marker of a finished shard; `dataset` is the document's digest.

    Args:
        images: whether to look at the sizes of an imagefolder's images, of which there may be millions.

    Raises:
        ValueError: the shard does not count as finished; the text says why.
    """
    names = ShardFiles.of(shard)
    marker = parse_marker(_read(folder, names.stats), shard, format=format, dataset=dataset)
    files = marker["files"]
    for name in files if images else names.listed(format):
        _check_size(f"{folder}/{name}", name, files[name]["bytes"])
    return marker


def parse_marker(data: bytes, shard: int, *, format: Format, dataset: str) -> dict[str, Any]:
    """The marker that these bytes are, with every field of the right type; its files are not looked at.

    Raises:
        ValueError: they are none of this shard of this dataset; the text says why.
    """
    names = ShardFiles.of(shard)
    try:
        marker = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"{names.stats} is damaged") from None
    if not _well_formed(marker):
        raise ValueError(f"{names.stats} is damaged")
    if marker["schema"] != SCHEMA or marker["shard"] != shard or marker["dataset"] != dataset:
        raise ValueError(f"{names.stats} belongs to another shard or dataset")
    if marker["wanted"] != sum(marker[status] for status in STATUSES):
        raise ValueError(f"{names.stats}: wanted is not written + rejected + failed")
    for name in names.listed(format):
        if name not in marker["files"]:
            raise ValueError(f"{names.stats} does not list {name}")
    return marker  # type: ignore[no-any-return]


def _read(folder: Path, name: str) -> bytes:
    try:
        with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123 (10,000 of them in a resume)
            return file.read()
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror})") from None


def _well_formed(marker: Any) -> bool:
    if not isinstance(marker, dict) or set(marker) != {"schema", "shard", "dataset", *COUNTS, "files"}:
        return False
    if not isinstance(marker["files"], dict) or not all(type(marker[name]) is int for name in COUNTS):
        return False
    entries = marker["files"].values()
    return all(
        isinstance(e, dict) and set(e) == {"sha256", "bytes"} and type(e["bytes"]) is int for e in entries
    )


def _check_size(path: str, name: str, num_bytes: int) -> None:
    try:
        found = os.stat(path).st_size  # noqa: PTH116 (50,000 of them in a resume)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{name} is missing") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror})") from None
    if found != num_bytes:
        raise ValueError(f"{name} has {found:,} bytes, not {num_bytes:,}")
