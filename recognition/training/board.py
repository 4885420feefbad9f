"""The same metrics for TensorBoard, where it is asked for."""

from pathlib import Path
from typing import Any

from d2r_fast.engine.errors import UserError


class Board:
    """Writes numbers to a folder of TensorBoard events.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs its package: pip install 'd2r-fast[train]'") from None
        self._folder = folder
        self._open = SummaryWriter
        self._writer: Any = None

    def begin(self, step: int) -> None:
        """Start, or go on; what an earlier try wrote of steps after `step` is not shown."""
        self._writer = self._open(self._folder, purge_step=step + 1)

    def add(self, values: dict[str, Any]) -> None:
        """Numbers of a step; a mapping's numbers each under their own name."""
        step = values["step"]
        for name, value in values.items():
            if isinstance(value, dict):
                for part, number in value.items():
                    self._writer.add_scalar(f"{name}/{part}", number, step)
            elif name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Let go of the file."""
        if self._writer is not None:
            self._writer.close()
