"""Training sets of our own making: finished shards, as tar files or as image folders.

Markers say which shards are whole. Of a tar the headers alone are read, and its .cls members, which lie in the
block behind theirs; so 400,000 images are listed in seconds, and an image is one read at a known offset.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.marker import (
    ShardFiles,
    document_digest,
    image_name,
    kind_of,
    read_document,
    read_marker,
)
from d2r_fast.engine.rows import ROWS, read_table
from d2r_fast.recognition.training.open_files import OpenFiles
from d2r_fast.recognition.training.training_set import TrainingSet, fingerprint, without_gaps

_BLOCK = 512
_IMAGES = frozenset({"jpg", "png"})


class Listed(NamedTuple):
    """Where an image lies: `size` bytes at `offset` of file number `file`."""

    key: str
    label: int
    file: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    offset: int
    size: int
    start: bytes
    """As much of the content as fits the block behind the header."""


class DatasetSet:
    """Images of a finished dataset in the order of its plan; identities that could not be made have no label."""

    def __init__(self, root: Path, *, files: list[Path], images: list[Listed], num_identities: int) -> None:
        self.root, self.name = root, root.resolve().name
        self._files = OpenFiles(files)
        self._keys = [image.key for image in images]
        self._places = np.array([image[2:] for image in images], np.int64).reshape(-1, 3)
        labels = np.array([image.label for image in images], np.int64)
        self.labels: NDArray[np.int64]
        self.labels, self._classes = without_gaps(labels)
        self.num_classes = len(self._classes)
        self.num_empty = num_identities - self.num_classes

    def read(self, index: int) -> bytes:
        file, offset, size = map(int, self._places[index])
        return self._files.read(file, size, offset)

    def key(self, index: int) -> str:
        return self._keys[index]

    def class_name(self, label: int) -> str:
        return str(self._classes[label])

    def fingerprint(self) -> str:
        return fingerprint(self)


def open_dataset_set(root: Path) -> TrainingSet:
    """The dataset in `root`.

    Raises:
        UserError: it is no dataset, a shard is unfinished, or does not hold what its marker says.
    """
    document = read_document(root)
    markers = _markers(root, document)
    listing = _list_tar if document["format"] == "webdataset" else _list_folders
    files: list[Path] = []
    images: list[Listed] = []
    for shard, marker in enumerate(markers):
        found = list(listing(root, shard, marker, files))
        if len(found) != marker["written"]:
            raise UserError(
                f"{root}: shard {shard:05d} holds {len(found):,} images and its marker says "
                f"{marker['written']:,}: run `d2r-fast verify {root}`"
            )
        images += found
    return DatasetSet(root, files=files, images=images, num_identities=document["plan"]["num_identities"])


def _markers(root: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Markers of all shards, in order."""
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


def _list_tar(root: Path, shard: int, marker: dict[str, Any], files: list[Path]) -> Iterator[Listed]:
    """Images of a tar. Members of a sample share a name up to the dot; .cls holds the label in digits."""
    path = root / ShardFiles.of(shard).tar
    number = len(files)
    files.append(path)
    labels: dict[str, int] = {}
    found: dict[str, _Member] = {}
    for member in _members(path):
        key, _, suffix = member.name.partition(".")
        if suffix == "cls" and member.start.isdigit():
            labels[key] = int(member.start)
        elif suffix in _IMAGES:
            found[key] = member
    for key, member in found.items():
        if key not in labels:
            raise UserError(f"{path}: {member.name} has no label ({key}.cls): run `d2r-fast verify {root}`")
        yield Listed(key, labels[key], number, member.offset, member.size)


def _members(path: Path) -> Iterator[_Member]:
    """Files in a tar, in order: one read of two blocks for each."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end, offset = os.fstat(descriptor).st_size, 0
        while (block := os.pread(descriptor, 2 * _BLOCK, offset))[:_BLOCK].strip(b"\0"):
            member = _member(block, offset)
            if member is None or member.offset + member.size > end:
                raise UserError(
                    f"{path} is damaged at byte {offset}: restore it from a copy or make its shard again"
                )
            yield member
            offset = member.offset + -(-member.size // _BLOCK) * _BLOCK
    finally:
        os.close(descriptor)


def _member(block: bytes, offset: int) -> _Member | None:
    """What a header (ustar) announces; None where its check sum says that it is none."""
    head = block[:_BLOCK]
    try:
        size, checksum = int(head[124:136].rstrip(b" \0"), 8), int(head[148:156].strip(b" \0"), 8)
        name = head[:100].rstrip(b"\0").decode()
    except ValueError:
        return None
    if sum(head) - sum(head[148:156]) + 8 * ord(" ") != checksum:
        return None
    return _Member(name, offset + _BLOCK, size, block[_BLOCK : _BLOCK + size])


def _list_folders(root: Path, shard: int, marker: dict[str, Any], files: list[Path]) -> Iterator[Listed]:
    """Images of an imagefolder, which its marker lists; the shard's table says their labels and order."""
    places = _places(root, shard)
    listed = [(name, entry["bytes"]) for name, entry in marker["files"].items() if "/" in name]
    for name, _ in listed:
        if name not in places:
            raise UserError(f"{root}: {name} is no image of its shard: run `d2r-fast verify {root}`")
    for (label, _), name, size in sorted((places[name], name, size) for name, size in listed):
        files.append(root / name)
        yield Listed(name, label, len(files) - 1, 0, size)


def _places(root: Path, shard: int) -> dict[str, tuple[int, int]]:
    """File name -> label and number of each image that a shard's table has."""
    document, path = read_document(root), root / ShardFiles.of(shard).rows
    suffix, kind = document["recipe"]["image_format"], kind_of(document)
    if kind not in ROWS:
        raise UserError(
            f"{root} is a {kind} dataset, expected a {' or '.join(ROWS)} one: run `d2r-fast verify {root}`"
        )
    try:
        rows = read_table(ROWS[kind], path)
    except ValueError as error:
        raise UserError(f"{root}: {error}: run `d2r-fast verify {root}`") from None
    written = [row for row in rows if row.status == "written"]
    return {image_name(row.identity, row.stem, suffix): (row.label, row.image) for row in written}
