"""What a person looks at while a generator is trained: rows of source, translated, target."""

from collections.abc import Sequence

import torch
from torch import Tensor

from d2r_fast.engine.sheet import Pixels, lay_out
from d2r_fast.recognition.training.board import Board


class PictureBoard(Board):
    """A board that shows pictures too."""

    def add_picture(self, name: str, pixels: Pixels, *, step: int) -> None:
        """Pixels uint8 (H, W, 3)."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")
        self._writer.flush()


def grid(columns: Sequence[Tensor]) -> Pixels:
    """Images side by side: each column (N, 3, S, S) float32 in [-1, 1], on any device; uint8 (H, W, 3)."""
    pixels = [column.clamp(-1, 1).add(1).mul(127.5).round().byte() for column in columns]
    return lay_out([[*row] for row in torch.stack(pixels, 1).permute(0, 1, 3, 4, 2).cpu().numpy()])
