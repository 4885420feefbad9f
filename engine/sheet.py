"""Pictures beside and below each other, for a person to compare."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.write import encode

GAP = 4
"""White pixels between two pictures."""
WHITE = 255
Pixels = NDArray[np.uint8]


def sheet_png(rows: Sequence[Sequence[Pixels]], *, zoom: int = 1) -> bytes:
    """PNG of `lay_out`."""
    return encode(lay_out(rows, zoom=zoom), "png", quality=100)


def lay_out(rows: Sequence[Sequence[Pixels]], *, zoom: int = 1) -> Pixels:
    """Rows of pictures on one, all uint8 (H, W, 3) and as many in each row; a pixel becomes `zoom` x `zoom`."""
    lines = [_with_gaps(row, axis=1) for row in rows]
    return _with_gaps(lines, axis=0).repeat(zoom, axis=0).repeat(zoom, axis=1)


def _with_gaps(parts: Sequence[Pixels], *, axis: int) -> Pixels:
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, WHITE, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=axis)
