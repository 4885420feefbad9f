"""A folder that holds one experiment: what it is, and how long its parts took, over restarts too."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d2r_fast.bench.miniature.head import head_file, open_head
from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import STALE, make_folder, sha256_file, write_atomic

SETTINGS, TIMES = "settings.json", "seconds.json"


def settle(out: Path, settings: Mapping[str, Any]) -> None:
    """Says in `out` what the experiment is, or sees that it says so already.

    Args:
        settings: everything that decides what comes out, as JSON can hold it.

    Raises:
        UserError: it is another one's.
    """
    make_folder(out)
    path = out / SETTINGS
    if not path.exists():
        if not all(STALE.match(entry.name) for entry in out.iterdir()):
            raise UserError(f"out {out} holds other things: give an empty folder or a new one")
        write_atomic(path, (json.dumps(settings, indent=1) + "\n").encode())
    held = read_json(path)
    differing = sorted(name for name in settings if held.get(name) != settings[name])
    if differing:
        names = ", ".join(f"{name} {held.get(name)}" for name in differing)
        raise UserError(f"out {out} holds an experiment with {names}: give another folder")


def made_of(facekit: Path, device: str) -> dict[str, str]:
    """What else decides what comes out: the head, and what it is computed on.

    Raises:
        UserError: no head there, or no such device.
    """
    open_head(facekit)
    return {
        "head": sha256_file(head_file(facekit)),
        "device": find_device(device).partition(":")[0],
    }


def read_json(path: Path) -> dict[str, Any]:
    """What a file of the experiment's own says.

    Raises:
        UserError: it is damaged.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f"{path} is damaged: give another folder, or remove it if it is the experiment that you mean"
        )
    return found


class Clock:
    """Runs parts of an experiment, says which, and keeps their seconds in a file: over restarts they add up."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._path = name, folder / TIMES
        self.seconds: dict[str, float] = read_json(self._path) if self._path.exists() else {}

    def __call__(self, part: str, work: Callable[[], object]) -> None:
        say(f"{self._name}: {part}")
        started_s = time.monotonic()
        try:
            work()
        finally:
            took_s = time.monotonic() - started_s
            if took_s > 0.5:
                self.seconds[part] = round(self.seconds.get(part, 0.0) + took_s, 1)
                write_atomic(self._path, json.dumps(self.seconds).encode())
