"""How `--workers 2` scales, and what a shard costs beyond its images, on networks whose work is simulated by sleeping.

The rest is the real thing: processes, hand-out, decoding, encoding, shards on the disk. What does not compute scales as
the program lets it, so this shows what the program takes, on a machine of two cores too. Start-up is told apart.

    python -m d2r_fast.bench.scaling --rounds 3
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from d2r_fast.engine.dataset import Dataset, read_events
from d2r_fast.engine.executors.local import run_local
from d2r_fast.engine.executors.maker import Task
from d2r_fast.engine.samples import draw_samples
from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.config import TranslateConfig, TranslateRecipe
from d2r_fast.translation.method import Method, Run, Size
from d2r_fast.translation.random_weights import write_random_weights
from d2r_fast.translation.translate import describe, open_stages, prepare, settle
from d2r_fast.translation.translating import Translating

IMAGES_PER_SHARD = 4
TARGET_SPEEDUP, TARGET_OVERHEAD_S = 1.85, 0.05


class Sleeping(Method):
    """Gives images back after a time, as one device does: one batch after the other."""

    NAME: ClassVar[str] = "vsait"

    def __init__(self, image_s: float) -> None:
        self._image_s, self._device = image_s, Lock()

    @classmethod
    def open(cls, weights: Path, recipe: TranslateRecipe) -> Self:
        return cls(0.0)

    def check(self, size: Size) -> None:
        """Any size will do."""

    def networks(self, size: Size) -> tuple[Exportable, ...]:
        return ()

    def prepare(self, images: Tensor) -> Tensor:
        return images.movedim(-1, 1).float() / 127.5 - 1

    def run(self, networks: Mapping[str, Run], inputs: Tensor, keys: Tensor) -> Tensor:
        with self._device:
            time.sleep(self._image_s * len(inputs))
        return inputs

    def finish(self, outputs: Tensor, size: Size) -> Tensor:
        return ((outputs + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).contiguous()


@contextmanager
def open_sleeping(
    config: TranslateConfig, image_s: float, device: str, pending: Sequence[int]
) -> Iterator[Translating]:
    """What makes shards in a process."""
    source, members = prepare(config)
    yield Translating(members, open_stages(config, source, Sleeping(image_s), device), config)


@dataclass(frozen=True)
class Timed:
    """Seconds until a run's last worker was ready, and per shard from then on."""

    start_s: float
    shard_s: float


def run(config: TranslateConfig, *, image_s: float, num_workers: int) -> Timed:
    """Makes the dataset by worker processes, one or more."""
    source, members = prepare(config)
    document = describe(config, source, members, Sleeping(image_s))
    opener = partial(open_sleeping, config, image_s)
    task = Task("sleep", opener, lambda shard: IMAGES_PER_SHARD, total=document["plan"]["wanted"])
    began = time.time()
    with Dataset.open(config.out, document) as dataset:
        run_local(task, dataset, ("cpu",) * num_workers)
        dataset.finish()
    events = list(read_events(config.out))
    ready = max(event["time"] for event in events if event["event"] in ("start", "worker"))
    done = [event["time"] for event in events if event["event"] == "shard" and event["time"] > ready]
    return Timed(ready - began, (max(done) - ready) / len(done))


def measure(folder: Path, *, num_shards: int, image_s: float, rounds: int) -> dict[str, Any]:
    """One worker and two in turn."""
    draw_samples(
        folder / "renders", num_identities=num_shards, images_per_identity=IMAGES_PER_SHARD, size=112
    )
    weights = write_random_weights("vsait", folder / "weights", size="mini", seed=0)
    found: dict[int, list[Timed]] = {1: [], 2: []}
    for number in range(rounds):
        for workers, timings in found.items():
            config = TranslateConfig(
                method="vsait", source=folder / "renders", weights=weights, out=folder / f"{workers}-{number}",
                backend="torch", device="cpu", identities_per_shard=1, batch_size=IMAGES_PER_SHARD,
            )  # fmt: skip
            timings.append(run(settle(config, "cpu"), image_s=image_s, num_workers=workers))
    slept_s = IMAGES_PER_SHARD * image_s
    speedups = [one.shard_s / two.shard_s for one, two in zip(found[1], found[2], strict=True)]
    overheads_s = [workers * run.shard_s - slept_s for workers, runs in found.items() for run in runs]
    return {
        "shards": num_shards, "images_per_shard": IMAGES_PER_SHARD, "image_s": image_s, "rounds": rounds,
        "speedup_of_2": round(statistics.median(speedups), 3), "speedup_wanted": TARGET_SPEEDUP,
        "speedups": [round(value, 3) for value in speedups],
        "overhead_per_shard_s": round(statistics.median(overheads_s), 4), "overhead_wanted_s": TARGET_OVERHEAD_S,
        "start_of_1_s": round(statistics.median(one.start_s for one in found[1]), 2),
        "start_of_2_s": round(statistics.median(two.start_s for two in found[2]), 2),
    }  # fmt: skip


def main() -> None:
    """Run it, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=60)
    parser.add_argument(
        "--image-s", type=float, default=0.05, help="seconds that the network sleeps for an image"
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), num_shards=given.shards, image_s=given.image_s, rounds=given.rounds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
