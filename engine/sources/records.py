"""InsightFace's RecordIO as a source: an identity per label, its images called by their keys."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.formats.records import RecordError
from d2r_fast.engine.sources.packed import DamagedImage, Entries, Files, PackedSource
from d2r_fast.engine.sources.record_files import RECORDS, RecordFiles
from d2r_fast.engine.sources.suffixes import HEAD, suffix_of


def open_records(root: Path) -> PackedSource:
    """The set of `train.rec` and `train.idx` in `root`. Labels without an image are no identities.

    Identities are called by their label, images by their key and the suffix that their first bytes say.

    Raises:
        UserError: as RecordFiles does.
    """
    records = RecordFiles(root)
    entries = Entries()
    suffixes = _suffixes(root / RECORDS, records.offsets)
    for row, (key, label) in enumerate(zip(records.keys.tolist(), records.labels.tolist(), strict=True)):
        entries.add(str(label), f"{key}.{suffixes[row]}", 0, row)

    def read(place: Sequence[int]) -> bytes:
        try:
            return records.read(place[1])
        except RecordError as error:
            raise DamagedImage(str(error)) from None

    def shown(_: int, identity: str, name: str) -> Path:
        return root / RECORDS / identity / name

    return PackedSource(Files(root, [root / RECORDS], read, shown), entries)


def _suffixes(path: Path, offsets: NDArray[np.int64]) -> list[str]:
    """What kind of image file each record of a whole file holds, by its first bytes; jpg where they say nothing."""
    data = np.memmap(path, np.uint8, "r")
    found: list[str] = []
    for start in range(0, len(offsets), 1 << 16):
        part = offsets[start : start + (1 << 16), None]
        flags = data.take(part + 8 + np.arange(4), mode="clip").view("<u4")
        first = data.take(part + 32 + 4 * flags.astype(np.int64) + np.arange(HEAD), mode="clip")
        found += [suffix_of(each.tobytes()) for each in first]
    return found
