"""The image files of a source, read ahead by threads; one that cannot be read ends the conversion, or is left out."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice

from d2r_fast.engine.ahead import ahead
from d2r_fast.engine.console import Meter
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.listing import Entry, Listing, Part, Person

STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""How the files of the known image formats begin."""
_THREADS, _DEPTH = 8, 64


def contents(entries: Iterable[Entry]) -> Generator[tuple[Entry, bytes], None, None]:
    """Images with their files' bytes, in order.

    Raises:
        UserError: one cannot be read, or is no image file.
    """
    for entry, data in _read(entries):
        if isinstance(data, str):
            raise UserError(
                f"image {entry.image.path} {data}: mend it, or leave such images out by --max-unreadable"
            )
        yield entry, data


def leave_out(listing: Listing, *, at_most: int) -> tuple[Listing, list[str]]:
    """The listing without the images that cannot be read, and these as <identity>/<name>. Reads every image.

    Raises:
        UserError: there are more than `at_most`.
    """
    people: list[Person] = []
    lost: list[str] = []
    everything = _read(entry for person in listing.people for entry in person)
    with closing(everything) as found, Meter("check", total=listing.num_images) as meter:
        for person in listing.people:
            usable = []
            for entry, data in islice(found, len(person)):
                meter.advance(1, note=f"{len(lost)} unreadable")
                if not isinstance(data, str):
                    usable.append(entry)
                    continue
                lost.append(f"{person.name}/{entry.name}")
                if len(lost) > at_most:
                    raise UserError(
                        f"more than {at_most} images cannot be read, the last {entry.image.path}, which {data}: "
                        "mend them, or give a higher --max-unreadable"
                    )
            people.append(person if len(usable) == len(person) else _person(person.name, usable))
    return Listing(listing.name, people, listing.documents, listing.roots), lost


def _person(name: str, entries: Iterable[Entry]) -> Person:
    parts = (Part(each.source, (each.image,), (each.name,), (each.record,)) for each in entries)
    return Person(name, tuple(parts))


def _read(entries: Iterable[Entry]) -> Generator[tuple[Entry, bytes | str], None, None]:
    """Images with their bytes, or with what is wrong with them."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from ahead(pool, _content, entries, depth=_DEPTH)


def _content(entry: Entry) -> tuple[Entry, bytes | str]:
    try:
        data = entry.read()
    except OSError as error:
        return entry, f"cannot be read ({error.strerror or error})"
    return entry, data if data.startswith(STARTS) else "is no image file" if data else "is empty"
