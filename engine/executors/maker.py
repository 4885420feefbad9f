"""What a command gives to an executor: how to open its networks, and what makes shards once they are open."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from d2r_fast.engine.clock import Clock
from d2r_fast.engine.source import Identity

Report = Callable[[Any], None]
"""Told of each image's row as its fate is known."""


class Maker(Protocol):
    """Makes shards in this process; its networks are open."""

    @property
    def clock(self) -> Clock:
        """Told how long each stage takes."""

    def about(self) -> dict[str, Any]:
        """What the log says of a run: source, device, batch size."""

    def make(self, shards: Iterable[int], report: Report) -> Generator[dict[str, Any]]:
        """The markers of shards as they are on the disk. A shard is asked for before those before it are done, and
        always by the thread that iterates. Close it after use.

        Raises:
            RunError: the disk is full, or a network failed.
        """


Open = Callable[[str, Sequence[int]], AbstractContextManager[Maker]]
"""Opens a maker on a device, "cpu" or "cuda:N", to make some of these shards. Other processes get it pickled."""


@dataclass(frozen=True)
class Task:
    """Shards to make.

    Attributes:
        name: of the command, for people.
        open: opens what makes them, in whatever process.
        num_images: wanted in a shard.
        total: images wanted in all shards, the finished ones among them.
    """

    name: str
    open: Open
    num_images: Callable[[int], int]
    total: int


def members_of(members: list[Identity], shard: int, identities_per_shard: int) -> list[tuple[int, Identity]]:
    """Label and identity of a shard's members, in order."""
    first = shard * identities_per_shard
    return list(enumerate(members[first : first + identities_per_shard], first))
