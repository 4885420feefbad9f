"""Shards of a translated dataset."""

from dataclasses import dataclass
from typing import Any

from d2r_fast.engine.device import device_name
from d2r_fast.engine.executors.maker import Report
from d2r_fast.engine.shard_maker import ShardMaker, Wanted
from d2r_fast.translation.config import TranslateConfig
from d2r_fast.translation.flow import Flow, Stages


@dataclass(frozen=True)
class Translating(ShardMaker[Stages, TranslateConfig]):
    """Translates the source's images."""

    def about(self) -> dict[str, Any]:
        stages = self.stages
        return {
            "source": str(stages.source.root.resolve()), "device": device_name(stages.opened.device),
            "batch_size": self.config.batch_size, "num_threads": stages.num_threads,
        }  # fmt: skip

    def flow(self, wanted: Wanted, report: Report) -> Flow:
        return Flow(wanted, self.stages, report)
