"""Images of many places through a reader: one that cannot be read costs no other either."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from d2r_fast.engine.decode import MIN_SIDE, DecodeError
from d2r_fast.engine.patience import timed
from d2r_fast.engine.readers.reader import Pixels, Reader

Item = TypeVar("Item")


def decode_each(
    reader: Reader, read: Callable[[Item], bytes], items: Sequence[Item], *, min_side: int = MIN_SIDE
) -> list[Pixels | DecodeError | OSError]:
    """Pixels uint8 (H, W, 3) of the file that `read` gives for each item, or what is wrong with it."""
    found = read_each(read, items)
    decoded = iter(reader.decode([file for file in found if isinstance(file, bytes)], min_side=min_side))
    return [next(decoded) if isinstance(file, bytes) else file for file in found]


def read_each(read: Callable[[Item], bytes], items: Sequence[Item]) -> list[bytes | OSError]:
    """The file that `read` gives for each item, or why it gives none."""
    return [_try(read, item) for item in items]


def _try(read: Callable[[Item], bytes], item: Item) -> bytes | OSError:
    try:
        return timed(read, item)
    except OSError as error:
        return error


def in_parts(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """The items, `size` at a time."""
    left = iter(items)
    while part := tuple(islice(left, size)):
        yield part
