"""The images of a set in InsightFace's RecordIO: `train.rec`, `train.idx`, and `property` where there is one.

Record 0 tells two kinds apart. With labels (A, B) and no file keys 1 to A - 1 are images; from A on follow
identities, which say what the images say already and are not read. Otherwise every record is an image, as im2rec makes
them; of several labels (its --pack-label) the first counts.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.records import (
    Readable,
    RecordError,
    read_heads,
    read_index,
    read_payload,
    unpack,
)
from d2r_fast.engine.open_files import OpenFiles

RECORDS, INDEX, PROPERTY = "train.rec", "train.idx", "property"
_EXACT = 2**24
"""float32 holds whole numbers up to here."""


class RecordFiles:
    """Images in the order of their keys.

    Attributes:
        keys, offsets: of the images' records, int64 (N,).
        labels: of the images, int64 (N,), whole numbers as the records have them.
        announced: how many classes `property` says there are; None where there is no such file.

    Raises:
        UserError: a file is missing, damaged or does not belong to the other, or labels are no class numbers.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        path = root / RECORDS
        for file in (path, root / INDEX):
            if not file.is_file():
                raise UserError(f"{file} is missing: RecordIO takes {RECORDS} and {INDEX} in one folder")
        keys, offsets = read_index(root / INDEX)
        order = np.argsort(keys)
        self._files = OpenFiles([path])
        try:
            self.keys, self.offsets = self._images(keys[order], offsets[order])
            labels = read_heads(path, self.offsets)[1]
        except RecordError as error:
            raise UserError(
                f"{path} does not fit {INDEX}: {error}: copy both again, from the same set"
            ) from None
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): see that it is a readable file"
            ) from None
        self.announced = _announced(root / PROPERTY)
        self.labels = self._whole(labels)

    def _images(
        self, keys: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Keys and offsets of the images alone."""
        if keys[0] != 0:
            raise UserError(
                f"{self.root / INDEX} has no key 0, which says what the records are: copy it again"
            )
        head = unpack(read_payload(self._reader(), int(offsets[0])))
        if head.flag == 0 or head.data:
            return keys, offsets
        end = float(head.labels[0])
        if not end.is_integer() or not 2 <= end <= _EXACT:
            raise UserError(
                f"{self.root / RECORDS}: record 0 says {end:g} ends the images, not a number from 2 on"
            )
        if int(end) > len(keys) or keys[int(end) - 1] != int(end) - 1:
            raise UserError(
                f"{self.root / INDEX} lacks images: record 0 says that keys 1 to {int(end) - 1:,} are images"
            )
        return keys[1 : int(end)], offsets[1 : int(end)]

    def _whole(self, labels: NDArray[np.float32]) -> NDArray[np.int64]:
        """The labels as the numbers that they are."""
        limit = _EXACT if self.announced is None else self.announced
        with np.errstate(invalid="ignore"):
            whole = (labels >= 0) & (labels < limit) & (labels == np.floor(labels))
        if not whole.all():
            row = np.flatnonzero(~whole)[0]
            raise UserError(
                f"{self.root / RECORDS}: record {self.keys[row]} has label {labels[row]:g}: expected a whole number "
                f"from 0 to {limit - 1:,}"
                + (f" ({PROPERTY} says {limit:,} classes)" if self.announced else "")
            )
        return labels.astype(np.int64)

    def read(self, row: int) -> bytes:
        """The image file of a row.

        Raises:
            OSError: its record cannot be read.
        """
        return unpack(read_payload(self._reader(), int(self.offsets[row]))).data

    def _reader(self) -> Readable:
        def read(size: int, offset: int, /) -> bytes:
            return self._files.read(0, size, offset)

        return read


def _announced(path: Path) -> int | None:
    """How many classes the file `property` announces: a line such as 10572,112,112. None where there is no file."""
    if not path.exists():
        return None
    try:
        num_classes = int(path.read_text().split(",")[0])
    except (OSError, ValueError):
        num_classes = 0
    if num_classes < 1:
        raise UserError(f"{path} is no property file: expected a line such as 10572,112,112, or no file")
    return num_classes
