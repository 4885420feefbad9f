"""Writing finished shards while the next ones are made."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from d2r_fast.engine.errors import RunError

WRITES_WAITING = 2
"""Finished shards that may wait for the disk before the run waits for it."""
AnyShard = TypeVar("AnyShard")


def write_behind(
    shards: Iterable[AnyShard], write: Callable[[AnyShard], dict[str, Any]]
) -> Generator[dict[str, Any]]:
    """The markers of shards as they are on the disk, written in a thread of their own. Close it after use.

    Where making a shard fails, those that are finished are written all the same. Where it is stopped, by a signal or by
    closing, the one that is being written is.

    Raises:
        RunError: a shard could not be made or written.
    """
    writer = ThreadPoolExecutor(1, "write")
    writing: deque[Future[dict[str, Any]]] = deque()
    try:
        for shard in shards:
            writing.append(writer.submit(write, shard))
            while writing and (writing[0].done() or len(writing) > WRITES_WAITING):
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()
    except RunError:
        writer.shutdown()
        raise
    finally:
        writer.shutdown(cancel_futures=True)  # what it is writing is done soon, and leaves no half file
