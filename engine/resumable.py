"""What to say of a failure in the middle of a run, whose finished shards are safe."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from d2r_fast.engine.errors import RunError


@contextmanager
def resumable(keys: Iterable[str]) -> Iterator[None]:
    """Says of a failure which images were in work, and that the same command goes on.

    Raises:
        RunError: in place of any RunError, with this added.
    """
    try:
        yield
    except RunError as error:
        ordered = sorted(keys)
        among = f" at images {ordered[0]} to {ordered[-1]}" if ordered else ""
        raise RunError(
            f"{error}{among}: finished shards are kept, the same command goes on from there"
        ) from error
