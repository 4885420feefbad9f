"""What a person looks at while a generator is trained: rows of source, translated, target."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from d2r_fast.engine.files import write_atomic
from d2r_fast.recognition.training.board import Board

GAP = 2
"""Pixels of white between images."""


class PictureBoard(Board):
    """A board that shows pictures too."""

    def add_picture(self, name: str, pixels: NDArray[np.uint8], *, step: int) -> None:
        """Pixels uint8 (H, W, 3)."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")
        self._writer.flush()


def grid(columns: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Images side by side: each column (N, 3, S, S) float32 in [-1, 1], on any device; uint8 (H, W, 3)."""
    num, _, side, _ = columns[0].shape
    step = side + GAP
    page = np.full((num * step - GAP, len(columns) * step - GAP, 3), 255, np.uint8)
    for place, column in enumerate(columns):
        pixels = column.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for row, image in enumerate(pixels):
            page[row * step : row * step + side, place * step : place * step + side] = image
    return page


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels uint8 (H, W, 3), whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())
