"""Images packed into large files: who they show, and where each lies, without an object for each of a million.

Forms list what their files hold as Entries; `pack` sorts them by identity. An image is found again by its names, so
an Image may come from another process.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from errno import EIO, ENOENT
from itertools import pairwise
from pathlib import Path
from sys import intern
from typing import overload

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import Identity, Image, ImageNames, natural_key


class DamagedImage(OSError):
    """An image that its archive does not give; `strerror` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(EIO, reason)


def check_identity(name: str, said_by: str) -> str:
    """The name of an identity that a label says, which may become a folder's.

    Raises:
        UserError: it cannot.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name or not _is_utf8(name):
        raise UserError(
            f"{said_by} has the identity {name!r}: give each a number, or a name that a folder can have"
        )
    return name


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # JSON can hold half of a surrogate pair
        return False
    return True


@dataclass(slots=True)
class Entries:
    """What was found, as columns: identity and file name of each image, and its place.

    A place is some whole numbers, as many for each image; the first is the number of the file that holds it.
    """

    identities: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    places: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, identity: str, name: str, *place: int) -> None:
        self.identities.append(intern(identity))
        self.names.append(intern(name))
        self.places.extend(place)


@dataclass(frozen=True)
class Files:
    """The files that images are packed into.

    Attributes:
        root: what was opened: the one file, or the folder of several.
        paths: of the files.
        read: bytes of the image at a place; raises OSError.
        shown: where an image of a file lies, for people: file's number, identity, name -> path.
    """

    root: Path
    paths: Sequence[Path]
    read: Callable[[Sequence[int]], bytes]
    shown: Callable[[int, str, str], Path]

    @property
    def name(self) -> str:
        path = self.root.resolve()
        return path.stem if path.is_file() else path.name


class PackedSource:
    """Images of packed files in natural order.

    Raises:
        UserError: two images of an identity are called alike.
    """

    def __init__(self, files: Files, entries: Entries) -> None:
        self.root, self.name = files.root, files.name
        self._files = files
        self._rows = _Rows(files, entries)
        self.identities = tuple(
            Identity(name, _PackedImages(name, self._rows, span)) for name, span in self._rows.spans.items()
        )

    @property
    def num_images(self) -> int:
        return len(self._rows.names)

    def image(self, identity: str, name: str) -> Image:
        return self._rows.image(identity, name)

    def read(self, image: Image) -> bytes:
        row = self._rows.find(image.identity, image.name)
        if row is None:
            raise FileNotFoundError(ENOENT, "no such image", str(image.path))
        return self._files.read(self._rows.places[row].tolist())


class _Rows:
    """All images: names and places of an identity side by side, in natural order."""

    def __init__(self, files: Files, entries: Entries) -> None:
        self._files = files
        members: dict[str, list[int]] = {}
        for row, identity in enumerate(entries.identities):
            members.setdefault(identity, []).append(row)
        self.spans: dict[str, range] = {}
        order: list[int] = []
        for identity in sorted(members, key=natural_key):
            rows = sorted(members[identity], key=lambda row: natural_key(entries.names[row]))
            self.spans[identity] = range(len(order), len(order) + len(rows))
            order += rows
        self.names = [entries.names[row] for row in order]
        self.places: NDArray[np.int64] = np.array(entries.places).reshape(len(order), -1)[order]
        self._refuse_twins()

    def find(self, identity: str, name: str) -> int | None:
        """Row of an image; None where there is none of this name."""
        span = self.spans.get(identity, range(0))
        row = bisect_left(self.names, natural_key(name), span.start, span.stop, key=natural_key)
        return row if row < span.stop and self.names[row] == name else None

    def image(self, identity: str, name: str) -> Image:
        row = self.find(identity, name)
        file = 0 if row is None else int(self.places[row, 0])
        return Image(identity, name, self._files.shown(file, identity, name))

    def at(self, row: int, identity: str) -> Image:
        """The image of a row."""
        name = self.names[row]
        return Image(identity, name, self._files.shown(int(self.places[row, 0]), identity, name))

    def _refuse_twins(self) -> None:
        for identity, span in self.spans.items():
            for row, after in pairwise(span):
                if self.names[row] == self.names[after]:
                    first, second = (self._files.paths[int(self.places[each, 0])] for each in (row, after))
                    where = f"{first} twice" if first == second else f"{first} and in {second}"
                    raise UserError(
                        f"image {self.names[row]} of identity {identity} is in {where}: give each once, or an identity "
                        "in one of them alone"
                    )


class _PackedImages(ImageNames):
    """Images of one identity: a span of the rows."""

    __slots__ = ("_identity", "_rows", "_span")

    def __init__(self, identity: str, rows: _Rows, span: range) -> None:
        self._identity, self._rows, self._span = identity, rows, span

    @property
    def names(self) -> Sequence[str]:
        return self._rows.names[self._span.start : self._span.stop]

    def locate(self, name: str) -> Image:
        return self._rows.image(self._identity, name)

    def __len__(self) -> int:
        return len(self._span)

    def __iter__(self) -> Iterator[Image]:
        return (self._rows.at(row, self._identity) for row in self._span)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Image, ...]: ...
    def __getitem__(self, index: int | slice) -> Image | tuple[Image, ...]:
        if isinstance(index, slice):
            return tuple(self._rows.at(row, self._identity) for row in self._span[index])
        return self._rows.at(self._span[index], self._identity)
