"""Writing people as InsightFace's RecordIO: train.rec, train.idx, train.lst and property."""

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2r_fast.engine.console import Meter
from d2r_fast.engine.decode import FORMATS
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import open_atomic, write_atomic
from d2r_fast.engine.formats.contents import contents
from d2r_fast.engine.formats.listing import Entry, Listing
from d2r_fast.engine.formats.named import LIST
from d2r_fast.engine.formats.records import write_identities, write_images
from d2r_fast.engine.sources.record_files import PROPERTY

SHUFFLE = 0x5EC0
"""Sets the shuffle's random numbers apart from others of the seed."""


def write_records(out: Path, listing: Listing, document: dict[str, Any]) -> None:
    """Write the records, and the files that go with them, into the folder `out`.

    Raises:
        UserError: an image cannot be read, or there are more than labels can number.
        RunError: the disk is full.
    """
    first_key = 0 if document["recipe"]["layout"] == "im2rec" else 1
    write_atomic(out / PROPERTY, _property(listing))
    with open_atomic(out / LIST) as file:
        for key, (label, name, entry) in enumerate(_all(listing), start=first_key):
            file.write(f"{key}\t{label}\t{name}/{entry.name}\n".encode())
    with Meter("convert", total=document["plan"]["wanted"]) as meter:
        if first_key:
            _write_in_order(out, listing, meter)
        else:
            _write_shuffled(out, listing, meter, seed=document["recipe"]["seed"])


def _all(listing: Listing) -> Iterator[tuple[int, str, Entry]]:
    """Label, identity and image of every image."""
    for label, person in enumerate(listing.people):
        for entry in person:
            yield label, person.name, entry


def _write_in_order(out: Path, listing: Listing, meter: Meter) -> None:
    with closing(contents(entry for _, _, entry in _all(listing))) as found:
        write_identities(out, _counted(found, meter), counts=[len(person) for person in listing.people])


def _write_shuffled(out: Path, listing: Listing, meter: Meter, *, seed: int) -> None:
    """Keys number the images in order; the records lie in another."""
    entries = list(_all(listing))
    order = np.random.Generator(np.random.Philox(key=[seed, SHUFFLE])).permutation(len(entries)).tolist()
    with closing(contents(entries[key][2] for key in order)) as found:
        places = ((key, entries[key][0]) for key in order)
        write_images(
            out, ((*place, data) for place, data in zip(places, _counted(found, meter), strict=True))
        )


def _counted(found: Iterator[tuple[Entry, bytes]], meter: Meter) -> Iterator[bytes]:
    for _, data in found:
        meter.advance(1)
        yield data


def _property(listing: Listing) -> bytes:
    """The line that announces classes, height and width: those of the first image."""
    with closing(contents(entry for _, _, entry in _all(listing))) as found:
        entry, data = next(found)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(
            f"image {entry.image.path} is damaged: mend it, or leave such images out beforehand"
        ) from None
    return f"{len(listing.people)},{height},{width}\n".encode()
