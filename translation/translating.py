"""Shards of a translated dataset, made one after the other by networks that are open."""

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from d2r_fast.engine.clock import Clock
from d2r_fast.engine.device import device_name
from d2r_fast.engine.executors.listing import Digests, check_listed
from d2r_fast.engine.executors.maker import Report, members_of
from d2r_fast.engine.out import Out
from d2r_fast.engine.source import Identity
from d2r_fast.engine.write import write_shard
from d2r_fast.engine.write_behind import write_behind
from d2r_fast.translation.config import TranslateConfig
from d2r_fast.translation.flow import Flow, Stages
from d2r_fast.translation.shard import TranslatedShard


@dataclass(frozen=True)
class Translating:
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
    config: TranslateConfig
    out: Out
    digests: Digests | None = None

    @property
    def clock(self) -> Clock:
        return self.stages.clock

    def about(self) -> dict[str, Any]:
        """What the log says of a run."""
        stages = self.stages
        return {
            "source": str(stages.source.root.resolve()), "device": device_name(stages.opened.device),
            "batch_size": self.config.batch_size, "num_threads": stages.num_threads,
        }  # fmt: skip

    def make(self, shards: Iterable[int], report: Report) -> Generator[dict[str, Any]]:
        """The markers of shards as they are on the disk, each written while the next ones are made."""
        config = self.config

        def write(shard: TranslatedShard) -> dict[str, Any]:
            with self.clock("write"):
                marker = write_shard(
                    self.out.folder, shard.number, rows=shard.rows, images=shard.images, identities=shard.identities,
                    errors=shard.problems, format=config.format, image_format=config.image_format,
                )  # fmt: skip
                self.out.deliver(marker)
                return marker

        wanted = ((shard, self._members(shard)) for shard in shards)
        with (
            closing(Flow(wanted, self.stages, report)) as flow,
            closing(write_behind(flow, write)) as markers,
        ):
            yield from markers

    def _members(self, shard: int) -> list[tuple[int, Identity]]:
        found = members_of(self.members, shard, self.config.identities_per_shard)
        if self.digests is not None:
            check_listed(shard, found, self.digests)
        return found
