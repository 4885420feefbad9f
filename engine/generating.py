"""Shards of a generated dataset."""

from dataclasses import dataclass
from typing import Any

from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.device import device_name
from d2r_fast.engine.executors.maker import Report
from d2r_fast.engine.flow import Flow, Stages
from d2r_fast.engine.shard_maker import ShardMaker, Wanted


@dataclass(frozen=True)
class Generating(ShardMaker[Stages, GenerateConfig]):
    """Draws them."""

    def about(self) -> dict[str, Any]:
        return {
            "source": str(self.stages.host.source.root.resolve()),
            "device": device_name(self.stages.finisher.generator.device), "batch_size": self.config.batch_size,
        }  # fmt: skip

    def flow(self, wanted: Wanted, report: Report) -> Flow:
        return Flow(wanted, self.stages, report)
