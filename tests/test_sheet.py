"""Pictures laid out for a person to compare."""

import io

import numpy as np
from PIL import Image

from d2r_fast.engine.sheet import GAP, sheet_png


def test_pictures_lie_in_rows_with_white_between() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (2, 3, 5, 7, 3), np.uint8)
    with Image.open(io.BytesIO(sheet_png(pictures, zoom=2))) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * (2 * 5 + GAP), 2 * (3 * 7 + 2 * GAP), 3)
    assert (sheet[::2, ::2] == sheet[1::2, 1::2]).all(), "a pixel is a square"
    small = sheet[::2, ::2]
    for row in range(2):
        for column in range(3):
            found = small[row * (5 + GAP) :, column * (7 + GAP) :][:5, :7]
            assert (found == pictures[row, column]).all()
    assert (small == 255).all(-1).sum() == small[..., 0].size - 6 * 5 * 7
