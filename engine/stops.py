"""SIGTERM and SIGINT: a process that is told to stop cleans up and ends, in seconds whatever its threads wait for."""

import os
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM)
STOPPED = tuple(128 + signum for signum in STOPS)
"""Status of a stopped process."""
STOP_WITHIN_S = 8.0
"""A cluster gives 10 s or more before it kills; files in sight are whole however a process ends."""
_watching = 0
"""The process whose end is seen to; a fork of it is another."""


def stop_when_told() -> None:
    """Makes the first SIGTERM or SIGINT a SystemExit with status 143 or 130 in the main thread. A second one ends the
    process at once, and so does time where the main thread cannot take the first, or waits for what cannot end."""
    for signum in STOPS:
        signal.signal(signum, _stop)
    _see_to_the_end()


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signum, signal.SIG_DFL)
    raise SystemExit(128 + signum)


def _see_to_the_end() -> None:
    # Python's handlers wait until the main thread is between two lines of Python; this pipe is written to at once.
    global _watching
    if _watching == os.getpid():
        return
    _watching = os.getpid()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reader,), name="stops", daemon=True).start()


def _end_in_time(reader: int) -> None:
    signum = os.read(reader, 1)[0]
    while signal.getsignal(signum) not in (_stop, signal.SIG_DFL):  # somebody else sees to this one
        signum = os.read(reader, 1)[0]
    time.sleep(STOP_WITHIN_S)
    os._exit(128 + signum)
