"""Readers: many image files at once to pixels, or to aligned crops, a file that is damaged costing no other.

    reader = open_reader("dali", device="cpu", num_threads=8)
    for found in reader.decode(files):
        ...  # uint8 (H, W, 3), or the DecodeError of this file

Which reader is taken decides nothing about an image's fate, nor why it has it; see `Reader`.

`auto` is the plain reader, whatever is installed and whatever the device. On a CPU it reads faster than any network
there takes crops by a factor of twenty and more (bench's `readers`). On a card DALI's JPEG pixels are nvJPEG's, which
are not the plain reader's: a reader that changes pixels is part of what a dataset or a result is made by, so it is
asked for by name, written down (`describe_reader`), and a run goes on with the one that it began with. Ask for `dali`
where JPEG photographs are read for a card faster than the plain reader's threads can: some 1,600 PNG files of 112
pixels or 400 JPEG files of 512 pixels a second and core.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.config import ReaderName
from d2r_fast.engine.decode import MIN_SIDE, DecodeError
from d2r_fast.engine.readers.plain import PlainReader

Pixels = NDArray[np.uint8]


class Reader(Protocol):
    """Decodes image files.

    What a file's fate is, and the reason of a DecodeError, are those of `engine.decode`, which says what pixels are
    too. Every result is a function of the file's bytes (and its matrix) alone, whatever else it was read with. Calls
    may come from several threads at once.

    Attributes:
        name: what to call it, as --reader does.
        num_at_once: files that a call is best given.
    """

    name: Literal["plain", "dali"]
    num_at_once: int

    def decode(self, files: Sequence[bytes], *, min_side: int = MIN_SIDE) -> list[Pixels | DecodeError]:
        """Pixels uint8 (H, W, 3) RGB of each file, or why it has none."""

    def align(
        self,
        files: Sequence[bytes],
        matrices: NDArray[np.float64],
        *,
        size: int = 112,
        min_side: int = MIN_SIDE,
    ) -> list[Pixels | DecodeError]:
        """Crops uint8 (size, size, 3) RGB of each file, or why it has none.

        matrices float64 (N, 2, 3) take x, y of an image to x, y of its crop, integers being pixel centres
        (`kernels.warp`, and OpenCV's warpAffine: bilinear, black outside).
        """


def open_reader(name: ReaderName, *, device: str, num_threads: int) -> Reader:
    """The reader called so.

    Args:
        name: auto is plain, so that what comes out depends on no machine.
        device: "cpu", or "cuda:N" where dali unpacks JPEG files on the card.
        num_threads: how many threads decode.

    Raises:
        UserError: NVIDIA DALI is not installed.
    """
    if settle_reader(name) == "plain":
        return PlainReader()
    from d2r_fast.engine.readers.dali import DaliReader  # an optional package

    return DaliReader(device=device, num_threads=num_threads)


def describe_reader(name: ReaderName) -> dict[str, str]:
    """What a document says of the reader: nothing of the plain one, which others are measured against.

    Raises:
        UserError: NVIDIA DALI is not installed.
    """
    if settle_reader(name) == "plain":
        return {}
    from d2r_fast.engine.readers.dali import import_dali  # an optional package

    return {"reader": f"dali {import_dali().__version__}"}


def settle_reader(name: ReaderName) -> Literal["plain", "dali"]:
    """The reader that `name` stands for."""
    return "plain" if name == "auto" else name
