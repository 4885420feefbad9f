"""What the leading process of a run has and the others have not."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from d2r_fast.recognition.training.board import Board
from d2r_fast.recognition.training.run_folder import RunFolder
from d2r_fast.recognition.training.validation import Validation


@dataclass(frozen=True)
class Desk:
    """The run's folder, its benchmarks and board where it has them, and what is written beside its networks."""

    folder: RunFolder
    validation: Validation | None
    board: Board | None
    about: Mapping[str, Any]

    def begin(self, step: int) -> None:
        """Forget what is known of later steps."""
        self.folder.begin(step)
        if self.board is not None:
            self.board.begin(step)

    def write(self, values: dict[str, Any]) -> None:
        """A line of metrics."""
        self.folder.log(**values)
        if self.board is not None:
            self.board.add(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.board is not None:
            self.board.close()
        self.folder.__exit__(kind, error, trace)
