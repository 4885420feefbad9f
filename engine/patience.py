"""Reads that never return, as from a network disk that is gone: the process ends, and names what it was reading.

No thread can be called back from such a read, and whoever waits for it waits for ever, the end of the interpreter
included. So a process that watches its reads ends at once where one has hung: files in sight are whole whatever ends
it, and the same command goes on from them. The image is not given up instead, since what comes out must not depend on
how a disk felt.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from d2r_fast.engine.errors import RunError

READ_WITHIN_S = 300.0
"""More than a disk that has to wake, or a server that starts again, takes."""
_LOOKS = 10
"""In this time. A read has hung that so many looks in a row have seen; a process that was itself held still meanwhile
looks no more than once."""
_reading: dict[int, list[object]] = {}
"""What each thread reads now, in a list of its own, which tells one read from the next."""
_watching = 0
"""The process that watches; a fork of it does not."""
Item = TypeVar("Item")


def timed(read: Callable[[Item], bytes], item: Item) -> bytes:
    """What `read` gives for an item, under watch.

    Raises:
        OSError: as `read` does.
    """
    thread = threading.get_ident()
    _reading[thread] = [item]
    try:
        return read(item)
    finally:
        _reading.pop(thread, None)


def watch() -> None:
    """From now on this process ends with status 1 and one line where a read takes longer than READ_WITHIN_S."""
    global _watching
    if _watching != os.getpid():
        _watching = os.getpid()
        _reading.clear()
        threading.Thread(target=_watch, name="patience", daemon=True).start()


def _watch() -> None:
    seen: dict[int, tuple[list[object], int]] = {}
    while True:
        time.sleep(READ_WITHIN_S / _LOOKS)
        seen = {thread: (read, _looks(seen.get(thread), read)) for thread, read in _reading.copy().items()}
        hung = [read for read, looks in seen.values() if looks > _LOOKS]
        if hung:
            _end(hung[0][0])


def _looks(before: tuple[list[object], int] | None, read: list[object]) -> int:
    """Looks in a row that have seen this read."""
    return before[1] + 1 if before is not None and before[0] is read else 1


def _end(item: object) -> None:
    name = getattr(item, "path", f"image {item}")
    print(
        f"d2r-fast: {name} was not read within {READ_WITHIN_S:g} s: see that its disk answers, then run the same "
        "command again; what is finished is kept",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    os._exit(RunError.exit_code)
