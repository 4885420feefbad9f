"""Work done by other threads ahead of who wants it, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], *, depth: int
) -> Iterator[Result]:
    """What `work` makes of the items, in their order, each as soon as it is there. Beyond the one that is waited for up
    to `depth` are worked on or wait to be.

    Items are taken, and results given, in the caller's thread. Whatever `work` raises is raised at its place.
    """
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        while waiting and (waiting[0].done() or len(waiting) > depth):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
