"""Reading at offsets of many files from many threads, without opening a file for every read."""

import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

MAX_OPEN = 256
"""Files kept open; a process may have 1024 as a rule. Reads of further files open them each time."""


class OpenFiles:
    """Files that are opened at their first read and closed when this object goes.

    Reads have no place of their own in a file, so a forked process reads by what its parent opened.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._open)

    def read(self, number: int, size: int, offset: int) -> bytes:
        """`size` bytes of file `number` at `offset`, fewer only at its end.

        Raises:
            OSError: it cannot be read.
        """
        descriptor = self._open.get(number)
        if descriptor is None:
            return self._read_first(number, size, offset)
        return os.pread(descriptor, size, offset)

    def _read_first(self, number: int, size: int, offset: int) -> bytes:
        descriptor = os.open(self._paths[number], os.O_RDONLY)
        keep = self._keep(number, descriptor)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            if not keep:
                os.close(descriptor)

    def _keep(self, number: int, descriptor: int) -> bool:
        """Whether the file stays open. Never waits: a process forked while a thread was here would wait for ever."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            keep = len(self._open) < MAX_OPEN and number not in self._open
            if keep:
                self._open[number] = descriptor
            return keep
        finally:
            self._lock.release()


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
    descriptors.clear()
