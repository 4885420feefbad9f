"""The folder of a training run: what the run is, how far it is, and who may write to it.

run.json            recipe, data and versions: a run that would train anything else is refused
metrics.jsonl       a line for every so many steps, and one for every epoch
checkpoint.pt       weights, momenta and place, replaced whole
best/               the network of the best epoch so far, where there are benchmarks
model.safetensors, config.json    the network that came out
_SUCCESS            written last
"""

import io
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from d2r_fast.engine.dataset import name_differences
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import disk_errors, make_folder, remove_stale, write_atomic
from d2r_fast.engine.folder_lock import refuse_foreign, sign_lock, take_lock
from d2r_fast.engine.marker import dump, dump_line

# What torch.load raises on bytes that are no checkpoint.
_DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError)
RUN, METRICS, CHECKPOINT, BEST, SUCCESS = "run.json", "metrics.jsonl", "checkpoint.pt", "best", "_SUCCESS"


class RunFolder:
    """A run's folder, held by this process until closed."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, document: Mapping[str, Any]) -> "RunFolder":
        """Take the folder for the run that `document` describes; make it if need be.

        Raises:
            UserError: it is a file, holds something else, or another run (the line names the differences).
            RunError: another process has it, or the disk is full.
        """
        wanted = json.loads(dump(document))
        make_folder(folder)
        refuse_foreign(folder, own=[RUN], what="training run")
        _refuse_other(folder, wanted)
        lock = take_lock(folder)
        try:
            sign_lock(lock, folder)
            _refuse_other(folder, wanted)
            remove_stale(folder)
            if not (folder / RUN).exists():
                write_atomic(folder / RUN, dump(wanted))
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, lock)

    @property
    def finished(self) -> bool:
        return (self.folder / SUCCESS).exists()

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_atomic(self.checkpoint, buffer.getvalue())

    def begin(self, step: int) -> None:
        """Forget what is known of steps after `step`, which will be done again: their metrics, and where `step` is 0
        the best network too."""
        if step == 0:
            with disk_errors(self.folder / BEST):
                if (self.folder / BEST).exists():
                    shutil.rmtree(self.folder / BEST)
        path = self.folder / METRICS
        if not path.exists():
            return
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if _is_before(line, step)]
        write_atomic(path, b"".join(kept))

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        line = dump_line(values)
        path = self.folder / METRICS
        with disk_errors(path, needed_bytes=len(line)), path.open("ab", buffering=0) as file:
            file.write(line)

    def finish(self) -> None:
        write_atomic(self.folder / SUCCESS, b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state saved last, on the CPU; None where there is none.

    Raises:
        RunError: it is damaged, or cannot be read.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): see that it can, and run again") from None
    except (*_DAMAGE, OSError) as error:  # a file that was cut short ends in a seek to nowhere
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise RunError(
            f"{path} is damaged ({reason}): delete it to start this run again from the first step"
        ) from None
    return state


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, oldest first; one that a kill cut short is passed over."""
    path = folder / METRICS
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _is_whole(line)]


def _refuse_other(folder: Path, wanted: Mapping[str, Any]) -> None:
    path = folder / RUN
    if not path.exists():
        return
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        raise UserError(f"{path} is damaged: put the original back, or give an empty folder") from None
    differing = name_differences(found, wanted)
    if differing:
        raise UserError(
            f"out {folder} holds another run: {differing}. Give what it was started with, or an empty folder"
        )


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _is_before(line: bytes, step: int) -> bool:
    return _is_whole(line) and line.endswith(b"\n") and json.loads(line).get("step", 0) <= step
