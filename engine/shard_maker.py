"""Shards made one after the other by networks that are open, whatever their images go through."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from d2r_fast.engine.clock import Clock
from d2r_fast.engine.executors.listing import Digests, check_listed
from d2r_fast.engine.executors.maker import Report, members_of
from d2r_fast.engine.out import Out
from d2r_fast.engine.source import Identity
from d2r_fast.engine.write import write_shard
from d2r_fast.engine.write_behind import write_behind

Wanted = Iterator[tuple[int, list[tuple[int, Identity]]]]
"""Numbers of shards, and their identities with labels."""


class Staged(Protocol):
    """What images go through, and the clock that takes its time."""

    @property
    def clock(self) -> Clock: ...


Stages = TypeVar("Stages", bound=Staged)
Config = TypeVar("Config", bound=Any)


@dataclass(frozen=True)
class ShardMaker(ABC, Generic[Stages, Config]):
    """Makes shards in this process (an `executors.maker.Maker`).

    Attributes:
        members: all identities of the dataset, in the order of their labels.
        stages: what each image goes through.
        config: settled.
        out: where the shards go.
        digests: what each shard's identities have to be, where others listed them.
    """

    members: list[Identity]
    stages: Stages
    config: Config
    out: Out
    digests: Digests | None = None

    @property
    def clock(self) -> Clock:
        return self.stages.clock

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What the log says of a run."""

    @abstractmethod
    def flow(self, wanted: Wanted, report: Report) -> Any:
        """Shards, drawn from `wanted` as they are made: an iterator that can be closed."""

    def make(self, shards: Iterable[int], report: Report) -> Generator[dict[str, Any]]:
        """The markers of shards as they are on the disk, each written while the next ones are made."""
        wanted = ((shard, self._members(shard)) for shard in shards)
        with (
            closing(self.flow(wanted, report)) as flow,
            closing(write_behind(flow, self._write)) as markers,
        ):
            yield from markers

    def _write(self, shard: Any) -> dict[str, Any]:
        with self.clock("write"):
            marker = write_shard(
                self.out.folder, shard.number, rows=shard.rows, images=shard.images, identities=shard.identities,
                errors=shard.problems, format=self.config.format, image_format=self.config.image_format,
            )  # fmt: skip
            self.out.deliver(marker)
            return marker

    def _members(self, shard: int) -> list[tuple[int, Identity]]:
        found = members_of(self.members, shard, self.config.identities_per_shard)
        if self.digests is not None:
            check_listed(shard, found, self.digests)
        return found
