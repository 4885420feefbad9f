"""Processes for work side by side, a thread each: what comes out does not depend on how many processors there are."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from d2r_fast.engine.device import find_device


@contextmanager
def side_by_side(device: str) -> Iterator[Executor]:
    """One for every processor that this process may use; on CUDA one, whose work follows each other on the card.

    They end with the block, in the middle of their work if it raises, and with this process however that ends.
    """
    context = get_context("spawn")
    count = len(os.sched_getaffinity(0)) if find_device(device) == "cpu" else 1
    told, holding = context.Pipe(duplex=False)
    with told, holding, ProcessPoolExecutor(count, context, initializer=begin, initargs=(told,)) as pool:
        try:
            yield pool
        except BaseException:
            holding.close()
            raise


def begin(told: Connection) -> None:
    """Leaves the other processors to the other processes, and ends this one when nobody holds the pipe any more."""
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(told,), name="parent", daemon=True).start()


def _end_with(told: Connection) -> None:
    told.poll(None)
    os._exit(1)
