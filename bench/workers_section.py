"""How `--workers 2` scales, and what a shard costs beyond its images, on networks whose work is simulated by sleeping.

The rest is the real thing: processes, hand-out, decoding, encoding, shards on the disk. What does not compute scales as
the program lets it, so this shows what the program takes, on a machine of two cores too. Start-up is told apart.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import ClassVar, Self

import torch
from torch import Tensor

from d2r_fast.bench.context import Bench
from d2r_fast.bench.measure import Budget
from d2r_fast.bench.record import Found
from d2r_fast.bench.targets import target
from d2r_fast.engine.dataset import Dataset, read_events
from d2r_fast.engine.executors.local import run_local
from d2r_fast.engine.executors.maker import Task
from d2r_fast.engine.out import Out
from d2r_fast.engine.samples import draw_samples
from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.config import TranslateConfig, TranslateRecipe
from d2r_fast.translation.method import Method, Run, Size
from d2r_fast.translation.random_weights import write_random_weights
from d2r_fast.translation.translate import describe, open_stages, prepare, settle
from d2r_fast.translation.translating import Translating

NUM_SHARDS = {"full": 60, "mini": 12}
IMAGES_PER_SHARD, IMAGE_S = 4, 0.05
MOST_ROUNDS = 3
OVERHEAD_S = 0.05
"""What a shard may cost beyond its images."""


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
    yield Translating(
        members, open_stages(config, source, Sleeping(image_s), device), config, Out(Path(config.out))
    )


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
    out = Path(config.out)
    with Dataset.open(out, document) as dataset:
        run_local(task, dataset, ("cpu",) * num_workers)
        dataset.finish()
    events = list(read_events(out))
    ready = max(event["time"] for event in events if event["event"] in ("start", "worker"))
    done = [event["time"] for event in events if event["event"] == "shard" and event["time"] > ready]
    return Timed(ready - began, (max(done) - ready) / len(done))


def measure(bench: Bench, found: Found) -> None:
    """One worker and two in turn."""
    num_shards = NUM_SHARDS[bench.size]
    timings = measure_workers(bench.workspace / "workers", num_shards=num_shards, budget=bench.budget)
    for workers, runs in timings.items():
        shards_s = sorted(run.shard_s for run in runs)
        found.row(
            _name(workers), num_shards=num_shards, images_per_shard=IMAGES_PER_SHARD, image_s=IMAGE_S,
            num_rounds=len(runs), median_s=round(statistics.median(shards_s), 5), p10_s=round(shards_s[0], 5),
            p90_s=round(shards_s[-1], 5), per_s=round(1 / statistics.median(shards_s), 3),
            start_s=round(statistics.median(run.start_s for run in runs), 2),
        )  # fmt: skip
    speedups = [one.shard_s / two.shard_s for one, two in zip(timings[1], timings[2], strict=True)]
    title = "2 workers over 1"
    found.finding(
        title, statistics.median(speedups), low=min(speedups), high=max(speedups), unit="x",
        target=target(title, bench.kind), note=f"a device that sleeps {IMAGE_S:g} s for an image",
    )  # fmt: skip
    overheads_s = [
        workers * run.shard_s - IMAGES_PER_SHARD * IMAGE_S
        for workers, runs in timings.items()
        for run in runs
    ]
    overhead_s = statistics.median(overheads_s)
    title = f"{OVERHEAD_S:g} s over a shard's overhead"
    found.finding(
        title, OVERHEAD_S / overhead_s, unit="x", target=target(title, bench.kind),
        note=f"{overhead_s * 1e3:.1f} ms beyond {IMAGES_PER_SHARD} images",
    )  # fmt: skip


def _name(num_workers: int) -> str:
    return f"a shard with {num_workers} worker{'s' * (num_workers > 1)}"


def measure_workers(folder: Path, *, num_shards: int, budget: Budget) -> dict[int, list[Timed]]:
    """Number of workers -> what each round took; rounds go on while there is time, one is made anyway."""
    draw_samples(
        folder / "renders", num_identities=num_shards, images_per_identity=IMAGES_PER_SHARD, size=112
    )
    weights = write_random_weights("vsait", folder / "weights", size="mini", seed=0)
    found: dict[int, list[Timed]] = {1: [], 2: []}
    began = time.monotonic()
    for number in range(MOST_ROUNDS):
        if number and budget.left_s < (time.monotonic() - began) / number:
            break
        for workers, timings in found.items():
            config = TranslateConfig(
                method="vsait", source=folder / "renders", weights=weights, out=folder / f"{workers}-{number}",
                backend="torch", device="cpu", identities_per_shard=1, batch_size=IMAGES_PER_SHARD,
            )  # fmt: skip
            timings.append(run(settle(config, "cpu"), image_s=IMAGE_S, num_workers=workers))
    return found
