"""Training sets of our own making: finished shards, as tar files or as image folders.

Markers say which shards are whole. Of a tar the headers alone are read, and its .cls members, which lie in the
block behind theirs; so 400,000 images are listed in seconds, and an image is one read at a known offset.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.marker import (
    ShardFiles,
    read_document,
)
from d2r_fast.engine.open_files import OpenFiles
from d2r_fast.engine.sources.datasets import finished_markers, written_rows
from d2r_fast.engine.sources.tar_members import Member, tar_members
from d2r_fast.recognition.training.training_set import TrainingSet, fingerprint, without_gaps

_IMAGES = frozenset({"jpg", "png", "webp", "bmp", "tif"})


class Listed(NamedTuple):
    """Where an image lies: `size` bytes at `offset` of file number `file`."""

    key: str
    label: int
    file: int
    offset: int
    size: int


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
    markers = finished_markers(root, document)
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


def _list_tar(root: Path, shard: int, marker: dict[str, Any], files: list[Path]) -> Iterator[Listed]:
    """Images of a tar. Members of a sample share a name up to the dot; .cls holds the label in digits."""
    path = root / ShardFiles.of(shard).tar
    number = len(files)
    files.append(path)
    labels: dict[str, int] = {}
    found: dict[str, Member] = {}
    for member in tar_members(path):
        key, _, suffix = member.name.partition(".")
        if suffix == "cls" and member.start.isdigit():
            labels[key] = int(member.start)
        elif suffix in _IMAGES:
            found[key] = member
    for key, member in found.items():
        if key not in labels:
            raise UserError(f"{path}: {member.name} has no label ({key}.cls): run `d2r-fast verify {root}`")
        yield Listed(key, labels[key], number, member.offset, member.size)


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
    document = read_document(root)
    suffix = document["recipe"]["image_format"]
    written = written_rows(root, document, shard)
    return {f"{row.identity}/{row.file_name(suffix)}": (row.label, row.image) for row in written}
