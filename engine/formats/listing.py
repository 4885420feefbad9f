"""What a source holds, in the order of its labels, under the names that it has for people and images.

A `Source` gives images by identity in natural order, which is all that most commands want. A conversion keeps labels,
so here identities stand in the order of their labels: as the tables of our datasets have them, as labels.txt and
train.lst say beside a train.rec of ours, as the classes of a parquet file are numbered. What says nothing of labels
is numbered in natural order.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import Identity, Image, Source, fingerprint, open_source


@dataclass(frozen=True, slots=True)
class Entry:
    """One image: its file name, where its bytes come from, and what its dataset recorded of it, a JSON text."""

    name: str
    image: Image
    source: Source
    record: str | None = None

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            OSError: it cannot be read, which is this image's problem alone.
        """
        return self.source.read(self.image)


@dataclass(frozen=True, slots=True)
class Part:
    """Images of one person in one source, in order; `names` and `records` are theirs, None for their own and none."""

    source: Source
    images: Sequence[Image]
    names: Sequence[str] | None = None
    records: Sequence[str | None] | None = None

    def __iter__(self) -> Iterator[Entry]:
        names = self.names if self.names is not None else (image.name for image in self.images)
        records = self.records if self.records is not None else itertools.repeat(None, len(self.images))
        for image, name, record in zip(self.images, names, records, strict=True):
            yield Entry(name, image, self.source, record)

    def first(self, num: int) -> "Part":
        """The first `num` images."""
        names = None if self.names is None else self.names[:num]
        records = None if self.records is None else self.records[:num]
        return Part(self.source, self.images[:num], names, records)


@dataclass(frozen=True, slots=True)
class Person:
    """An identity and its images; it may have none."""

    name: str
    parts: tuple[Part, ...]

    def __iter__(self) -> Iterator[Entry]:
        return itertools.chain.from_iterable(self.parts)

    def __len__(self) -> int:
        return sum(len(part.images) for part in self.parts)

    def first(self, num: int) -> "Person":
        """The same with its first `num` images."""
        kept = []
        for part in self.parts:
            kept.append(part.first(num))
            num -= len(kept[-1].images)
        return Person(self.name, tuple(kept))


@dataclass(frozen=True)
class Listing:
    """People in the order of their labels.

    Attributes:
        name: what it is called.
        documents: what the datasets that it comes from say of themselves: dataset.json, or origin.json.
        roots: where they lie.
    """

    name: str
    people: Sequence[Person]
    documents: Sequence[dict[str, Any]] = ()
    roots: Sequence[Path] = field(default=(), repr=False)

    @property
    def num_images(self) -> int:
        return sum(map(len, self.people))

    def fingerprint(self) -> str:
        """Hex SHA-256 of all names in the order of labels."""
        return fingerprint(
            Identity(person.name, [Image(person.name, entry.name, Path()) for entry in person])
            for person in self.people
        )


def open_listing(path: Path) -> Listing:
    """All that is at `path`, in any form that `open_source` reads.

    Raises:
        UserError: as open_source does; or what says labels and names does not fit the images.
    """
    from d2r_fast.engine.formats.named import documents_of, named_people  # which builds upon this module

    source = open_source(path)
    people = named_people(path, source)
    if people is None:
        people = [Person(identity.name, (Part(source, identity.images),)) for identity in source.identities]
    refuse_twins([person.name for person in people], source=path)
    return Listing(source.name, people, documents_of(path), (path,))


def refuse_twins(names: Sequence[str], *, source: Path) -> None:
    """See that no two identities are called alike.

    Raises:
        UserError: two are.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"source {source} has two identities called {name!r}: rename one")
        seen.add(name)
