"""Threads in which torch computes alone, so that how many there are does not change a bit of any result."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class LoneThreads:
    """A fixed set of threads, each of which torch, OpenMP, MKL and oneDNN use without helpers.

    torch.set_num_threads sets OpenMP's and MKL's counts for the calling thread, and beside them what threads
    that start later begin with. So each thread here sets its own to 1, and the caller sets its own again to
    what it had, after which the rest of the process is as before.
    """

    def __init__(self, num_threads: int) -> None:
        before = torch.get_num_threads()
        started = threading.Barrier(num_threads + 1)
        self._pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))
        for _ in range(num_threads):
            self._pool.submit(started.wait)
        started.wait()
        torch.set_num_threads(before)

    def run(self, work: Callable[[], T]) -> T:
        """Does `work` in one of the threads and returns what it returns or raises what it raises."""
        return self._pool.submit(work).result()
