"""Labelled face images to train on, whatever form they lie in on disk.

    images = open_training_set(Path("digi2real"))
    images = mix(images, open_training_set(Path("casia"), num_identities=200))
    data, label = images.read(7), images.labels[7]

Our own datasets (webdataset shards or image folders) and InsightFace's RecordIO (train.rec and train.idx) are known
by their files; everything else is opened as a source: a folder with one sub-folder per identity, zips, tars, parquet.
Opening reads headers and lists names; images are read when asked for, from any number of threads.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.marker import DOCUMENT
from d2r_fast.engine.sources.record_files import INDEX, RECORDS
from d2r_fast.kernels.noise import identity_key

_AT_ONCE = 1 << 16
"""Keys that are joined and hashed together."""


class TrainingSet(Protocol):
    """Images with labels 0 to num_classes - 1, each of which some image has.

    Attributes:
        labels: of the images, int64 (N,).
        num_classes: C.
        name: for people: the folder's name.
        num_empty: classes that were announced and have no image; they have no label.
    """

    @property
    def labels(self) -> NDArray[np.int64]: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def num_empty(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The file of an image.

        Raises:
            OSError: it cannot be read, which is this image's problem alone.
        """

    def key(self, index: int) -> str:
        """What the image is called; no two of a set are called alike."""

    def class_name(self, label: int) -> str:
        """What its source calls a class."""

    def fingerprint(self) -> str:
        """Hex SHA-256 of all keys and labels in order: what a run trains on. Contents are not read."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How the images of a set are spread over its classes.

    Attributes:
        num_single: classes with one image, which take part but teach no variety.
        num_empty: classes without images, dropped.
        smallest, largest: images of a class.
    """

    num_images: int
    num_classes: int
    num_single: int
    num_empty: int
    smallest: int
    largest: int

    def line(self) -> str:
        """The same for people."""
        text = (
            f"{self.num_images:,} images of {self.num_classes:,} identities, {self.smallest:,} to "
            f"{self.largest:,} each"
        )
        if self.num_single:
            text += f"; {self.num_single:,} with one image only"
        return text + (f"; {self.num_empty:,} without images dropped" if self.num_empty else "")


def open_training_set(path: Path, *, num_identities: int | None = None, seed: int = 0) -> TrainingSet:
    """The training set at `path`, or `num_identities` of its classes, chosen by `seed`.

    A choice of fewer classes is part of every choice of more with the same seed, so that runs with growing
    numbers of identities (Digi2Real, Table 8) differ by what was added alone. Classes keep their order.

    Raises:
        UserError: nothing of a known form is there, it is damaged or unfinished, or has fewer classes.
    """
    images = _open(path)
    check_training_set(images)
    return images if num_identities is None else choose(images, num_identities=num_identities, seed=seed)


def _open(path: Path) -> TrainingSet:
    # Here, since these modules build upon this one.
    from d2r_fast.recognition.training.dataset_set import open_dataset_set
    from d2r_fast.recognition.training.record_set import RecordSet
    from d2r_fast.recognition.training.source_set import SourceSet

    if not path.exists():
        raise UserError(
            f"training set {path} does not exist: give a dataset of d2r-fast, a folder laid out as "
            f"<identity>/<image>, a .zip, .tar or .parquet of one, or a folder with {RECORDS} and {INDEX}"
        )
    if (path / DOCUMENT).exists():
        return open_dataset_set(path)
    if (path / RECORDS).exists() or (path / INDEX).exists():
        return RecordSet(path)
    return SourceSet(path)


def check_training_set(images: TrainingSet) -> Summary:
    """See that `images` can be trained on: labels 0 to C - 1, none left out.

    Raises:
        UserError: a label is out of range, a class has no image, or there are fewer than two classes.
    """
    labels, num_classes = images.labels, images.num_classes
    if not len(labels):
        raise UserError(f"training set {images.name} holds no image: give a folder that does")
    if labels.min() < 0 or labels.max() >= num_classes:
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise UserError(
            f"training set {images.name} has label {wrong}: its {num_classes:,} classes are 0 to {num_classes - 1}"
        )
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise UserError(
            f"training set {images.name} has no image with label {np.flatnonzero(counts == 0)[0]}: number the "
            f"classes 0 to {num_classes - 1} without gaps"
        )
    if num_classes < 2:
        raise UserError(
            f"training set {images.name} holds one identity: telling people apart takes at least two"
        )
    single = int((counts == 1).sum())
    return Summary(len(labels), num_classes, single, images.num_empty, int(counts.min()), int(counts.max()))


def choose(images: TrainingSet, *, num_identities: int, seed: int) -> TrainingSet:
    """Those of `num_identities` classes, drawn by the seed and the classes' names, labelled anew in order.

    Raises:
        UserError: fewer than 1, or more than there are.
    """
    if not 1 <= num_identities <= images.num_classes:
        raise UserError(
            f"{num_identities:,} identities of {images.name}: it has {images.num_classes:,}, give 1 to that many"
        )
    draws = [identity_key(seed, images.class_name(label)) for label in range(images.num_classes)]
    chosen = np.sort(np.argsort(np.array(draws), kind="stable")[:num_identities])
    new = np.full(images.num_classes, -1, np.int64)
    new[chosen] = np.arange(num_identities)
    rows = np.flatnonzero(new[images.labels] >= 0)
    return _Chosen(images, rows, chosen, new[images.labels[rows]])


def mix(first: TrainingSet, second: TrainingSet) -> TrainingSet:
    """Both sets as one; the classes of the second come after those of the first."""
    return _Mixed(first, second, np.concatenate([first.labels, second.labels + first.num_classes]))


def without_gaps(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels numbered anew 0 to C - 1 in their own order, and what each of the C was called before."""
    names, new = np.unique(labels, return_inverse=True)
    return new.astype(np.int64), names


def fingerprint(images: TrainingSet) -> str:
    """Hex SHA-256 of keys and labels in order. Keys hold no NUL, so no two sets share a text."""
    digest = hashlib.sha256()
    for start in range(0, len(images.labels), _AT_ONCE):
        rows = range(start, min(start + _AT_ONCE, len(images.labels)))
        digest.update("\0".join([*(images.key(row) for row in rows), ""]).encode())
        digest.update(images.labels[start : rows.stop].astype("<i8").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Chosen:
    """Some classes of a set."""

    base: TrainingSet
    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    labels: NDArray[np.int64] = field(repr=False)
    num_empty: int = 0

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def name(self) -> str:
        return f"{self.base.name} ({self.num_classes:,} of {self.base.num_classes:,} identities)"

    def read(self, index: int) -> bytes:
        return self.base.read(int(self.rows[index]))

    def key(self, index: int) -> str:
        return self.base.key(int(self.rows[index]))

    def class_name(self, label: int) -> str:
        return self.base.class_name(int(self.classes[label]))

    def fingerprint(self) -> str:
        return fingerprint(self)


@dataclass(frozen=True)
class _Mixed:
    """Two sets, one after the other. Keys and class names say which of the two: both may have a '0/0.png'."""

    first: TrainingSet
    second: TrainingSet
    labels: NDArray[np.int64] = field(repr=False)

    @property
    def num_classes(self) -> int:
        return self.first.num_classes + self.second.num_classes

    @property
    def name(self) -> str:
        return f"{self.first.name} + {self.second.name}"

    @property
    def num_empty(self) -> int:
        return self.first.num_empty + self.second.num_empty

    def read(self, index: int) -> bytes:
        base, row, _ = self._at(index)
        return base.read(row)

    def key(self, index: int) -> str:
        base, row, number = self._at(index)
        return f"{number}:{base.key(row)}"

    def class_name(self, label: int) -> str:
        split = self.first.num_classes
        if label < split:
            return f"1:{self.first.class_name(label)}"
        return f"2:{self.second.class_name(label - split)}"

    def fingerprint(self) -> str:
        return fingerprint(self)

    def _at(self, index: int) -> tuple[TrainingSet, int, int]:
        split = len(self.first.labels)
        return (self.first, index, 1) if index < split else (self.second, index - split, 2)
