"""What a person sees while a run goes on: a live bar on a terminal, a plain line now and then in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0


def say(line: str) -> None:
    """One plain line on standard error, where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


class Meter:
    """Progress of `total` items, as a bar on a terminal and as lines elsewhere.

    The rate counts the items of this run alone: what an earlier run had finished is `already`. A `silent` one says
    nothing: of several processes one speaks.
    """

    def __init__(
        self, task: str, *, total: int, already: int = 0, unit: str = "images", silent: bool = False
    ):
        self._task, self._total, self._unit, self._silent = task, total, unit, silent
        self._already, self._done = already, already
        self._note = ""
        self._started_s = self._said_s = time.monotonic()
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal and not silent:
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            )  # fmt: skip
            self._bar = Progress(*columns, console=console)
            self._id = self._bar.add_task(task, total=total, completed=already, rate="", note="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more items as done; `note` says how they ended."""
        self._done += count
        self._note = note
        now_s = time.monotonic()
        if self._bar:
            self._bar.update(self._id, completed=self._done, rate=self._rate(now_s), note=note)
        elif now_s - self._said_s >= LINE_EVERY_S and not self._silent:
            self._said_s = now_s
            say(self._line(now_s))

    def _rate(self, now_s: float) -> str:
        return f"{self._per_second(now_s):.3g} {self._unit}/s"

    def _per_second(self, now_s: float) -> float:
        return (self._done - self._already) / max(now_s - self._started_s, 1e-9)

    def _line(self, now_s: float) -> str:
        left_s = (self._total - self._done) / max(self._per_second(now_s), 1e-9)
        clock = f"{int(left_s // 3600)}:{int(left_s % 3600 // 60):02d}:{int(left_s % 60):02d}"
        parts = [f"{self._task} {self._done}/{self._total}", self._rate(now_s), f"{clock} left", self._note]
        return ", ".join(part for part in parts if part)
