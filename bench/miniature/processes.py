"""Processes for work side by side, a thread each: what comes out does not depend on how many processors there are."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from d2r_fast.engine.console import Meter
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import RunError


@contextmanager
def side_by_side(device: str) -> Iterator[Executor]:
    """One for every processor that this process may use; on CUDA one, whose work follows each other on the card.

    They end with the block, in the middle of their work if it raises, and with this process however that ends.

    Raises:
        RunError: one of them was killed.
    """
    context = get_context("spawn")
    count = len(os.sched_getaffinity(0)) if find_device(device) == "cpu" else 1
    told, holding = context.Pipe(duplex=False)
    with told, holding, ProcessPoolExecutor(count, context, initializer=begin, initargs=(told,)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise RunError(
                "a process was killed in the middle of its work, perhaps for memory: free some, then run the same "
                "command again"
            ) from error
        except BaseException:
            holding.close()
            raise


def await_all(task: str, working: Sequence[Future[None]]) -> None:
    """Until all is done, with its progress on the terminal; raises what any of it raises."""
    with Meter(task, total=len(working), unit="parts") as meter:
        for done in as_completed(working):
            done.result()
            meter.advance(1)


def begin(told: Connection) -> None:
    """Leaves the other processors and the terminal to others, and ends this process when nobody holds the pipe any
    more."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who started us ends us
    os.environ["TTY_COMPATIBLE"] = "0"  # no bars: several would be drawn over one another
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(told,), name="parent", daemon=True).start()


def _end_with(told: Connection) -> None:
    told.poll(None)
    os._exit(1)
