"""The plain reader: Pillow, one file after another, in the thread that calls it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.decode import MIN_SIDE, DecodeError, decode
from d2r_fast.kernels.warp_one import warp_one

Pixels = NDArray[np.uint8]


class PlainReader:
    """`engine.decode` and `kernels.warp_one`, file by file: what every reader has to agree with."""

    name: Literal["plain", "dali"] = "plain"
    num_at_once = 1

    def decode(self, files: Sequence[bytes], *, min_side: int = MIN_SIDE) -> list[Pixels | DecodeError]:
        return [_decode(data, min_side) for data in files]

    def align(
        self,
        files: Sequence[bytes],
        matrices: NDArray[np.float64],
        *,
        size: int = 112,
        min_side: int = MIN_SIDE,
    ) -> list[Pixels | DecodeError]:
        found = self.decode(files, min_side=min_side)
        return [
            image if isinstance(image, DecodeError) else warp_one(image, matrix, size)
            for image, matrix in zip(found, matrices, strict=True)
        ]


def _decode(data: bytes, min_side: int) -> Pixels | DecodeError:
    try:
        return decode(data, min_side=min_side)
    except DecodeError as error:
        return error
