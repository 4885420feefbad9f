"""What the small realism transfer came to: distances, identity, and a sheet of pictures to see it on."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r_fast.bench.record import slug
from d2r_fast.engine.decode import decode
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.files import make_folder, write_atomic
from d2r_fast.engine.sheet import sheet_png
from d2r_fast.engine.source import open_source
from d2r_fast.recognition.embedder import open_embedder
from d2r_fast.translation.compare.document import describe_kept
from d2r_fast.translation.compare.features import Space
from d2r_fast.translation.compare.identity import compare_identity, embed_pictures
from d2r_fast.translation.compare.mmd import halves, squared_mmd

RESULT, SHEET = "transfer.json", "contact-sheet.png"
UNTRANSLATED, OWN = "untranslated", "own photographs"
LEAST_FALL, LEAST_KEPT = 1 / 3, 0.8
"""What was asked for: the distance falls by a third, and 0.8 of the identity is kept."""
NUM_COLUMNS, ZOOM = 12, 2
Pictures = NDArray[np.uint8]
Json = dict[str, Any]
Paths = Mapping[str, Path]


def measure_transfer(
    out: Path, *, folders: Paths, recognisers: Paths, side: int, seed: int, device: str
) -> Json:
    """Distance and identity of every translation in `folders` (method -> folder), beside those of the untranslated
    renders and of the same people's own photographs; writes the contact sheet.

    Args:
        recognisers: all that say how much identity is kept, by name.

    Raises:
        UserError: a recogniser cannot be opened.
        RunError: translations are missing.
    """
    held, labels = read_pictures(out / "held")
    others, other_labels = read_pictures(out / "other-photographs")
    sets = {UNTRANSLATED: held, OWN: read_pictures(out / "own-photographs")[0]}
    for method, folder in folders.items():
        sets[method], found = read_pictures(folder)
        if found != labels:
            raise RunError(
                f"{folder} holds {len(found)} of {len(labels)} translations: see its errors, and run again"
            )
    write_sheet(out / SHEET, {**sets, "other people": others})
    return {
        "wanted": {"distance_fallen_by": LEAST_FALL, "identity_share": LEAST_KEPT},
        "num_pictures": len(held), "num_photographs": len(others),
        **measure_distances(sets, others, other_labels, side=side, seed=seed),
        "identity": {
            name: measure_identity(path, sets, labels, device=device) for name, path in recognisers.items()
        },
    }  # fmt: skip


def measure_distances(
    sets: Mapping[str, Pictures], others: Pictures, labels: Sequence[str], *, side: int, seed: int
) -> Json:
    """Squared MMD of every set to photographs of other people, and of halves of these, none of whom is in both."""
    space = Space.over(sets[UNTRANSLATED], others, side=side)
    real = space(others)
    distances = {name: squared_mmd(space(pictures), real) for name, pictures in sets.items()}
    floor = halves(real, seed=seed, groups=labels)
    before = distances[UNTRANSLATED]
    return {
        "distance": distances,
        "distance_of_halves": {"mean": float(np.mean(floor)), "std": float(np.std(floor))},
        "distance_fallen_by": {
            name: 1 - found / before if before > 0 else None
            for name, found in distances.items() if name != UNTRANSLATED
        },
    }  # fmt: skip


def measure_identity(
    recogniser: Path, sets: Mapping[str, Pictures], labels: Sequence[str], *, device: str
) -> Json:
    """What a recogniser finds of the untranslated pictures in the others."""
    embedder = open_embedder(recogniser, device=device)
    source = embed_pictures(embedder, sets[UNTRANSLATED])
    found = {
        name: describe_kept(compare_identity(source, embed_pictures(embedder, pictures), labels))
        for name, pictures in sets.items()
    }
    return {"recogniser": embedder.name, "sets": found}


def read_pictures(folder: Path) -> tuple[Pictures, list[str]]:
    """Pictures (N, H, W, 3) of a folder in natural order, and who is in each."""
    source = open_source(folder)
    images = [image for identity in source.identities for image in identity.images]
    return np.stack([decode(source.read(image)) for image in images]), [image.identity for image in images]


def write_sheet(path: Path, sets: Mapping[str, Pictures]) -> None:
    """A row of every set: the same pictures below each other, but for the last row's, who are other people."""
    rows = [pictures[:: max(1, len(pictures) // NUM_COLUMNS)][:NUM_COLUMNS] for pictures in sets.values()]
    write_atomic(path, sheet_png([[*row] for row in rows], zoom=ZOOM))


def save(document: Json, out: Path, *, folder: Path | None) -> None:
    """Writes the document into `out`, and with the sheet into `folder` under the machine's name and the date.

    Raises:
        UserError: a folder cannot be written to.
        RunError: the disk is full.
    """
    data = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    write_atomic(out / RESULT, data)
    if folder is None:
        return
    make_folder(folder)
    stem = f"transfer-{slug(document['machine'])}-{datetime.date.today().isoformat()}"
    write_atomic(folder / f"{stem}.json", data)
    write_atomic(folder / f"{stem}-sheet.png", (out / SHEET).read_bytes())
