"""`generate` from end to end, against its own UNet and VAE alone, and against diffusers in two forms.

All draw the same number of images of the same size in the same number of steps. Networks are opened, and hashed
for the dataset's description, once and before the clock starts. The run reads and embeds renders, samples,
decodes, detects, aligns and writes shards; untrained networks draw no face, so what comes after detection is a
rejection there, for all alike.
"""

import itertools
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2r_fast.bench.baselines import IMAGES_PER_CALL, Batched, Drawer, Published, psnr, tune
from d2r_fast.bench.ceiling import DTYPES
from d2r_fast.bench.context import Bench
from d2r_fast.bench.drawings import draw_noise
from d2r_fast.bench.measure import Arm, Ratio, Timing, compare, interleave
from d2r_fast.bench.plain_mtcnn import PlainMTCNN
from d2r_fast.bench.record import Found
from d2r_fast.bench.targets import target
from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.console import say
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.flow import Stages
from d2r_fast.engine.forecast import Forecast, forecast
from d2r_fast.engine.marker import EVENTS
from d2r_fast.engine.pipeline import describe, make_all, open_stages, select, settle
from d2r_fast.engine.samples import draw_samples
from d2r_fast.engine.source import Identity, open_source

STEPS, GUIDANCE = 25, 3.0
SHORT_STEPS = 5
"""For full shapes on a CPU, where an image takes minutes. What comes beside the networks then weighs five times."""
AGREEMENT, EQUAL_WORK = "agreement with B0, dB", "same noise and weights"
NUM_ROUNDS = 5
PLAN_S = 5.0
NAMES: dict[str, Any] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
RENDERS = 5
"""Renders per identity, all of which are embedded."""
CPU_ROWS = 8
"""`generate`'s default; on a CPU each thread takes one row at a time, whatever the batch."""
CPU_BATCHES, CUDA_BATCHES = (4, 8), (8, 16, 32)
"""Images per call among which B1 finds its best."""
OURS, ALONE, B0, B1 = (
    "generate",
    "UNet and VAE alone",
    "B0, diffusers as published",
    "B1, diffusers at its best",
)


@dataclass
class Run:
    """`generate` with its networks open: a call makes a dataset in a folder of its own.

    Attributes:
        document: what the dataset says of itself, hashes of the models included: made before the clock starts.
        last_stage_s: seconds by stage of the last call, summed over threads.
    """

    config: GenerateConfig
    stages: Stages
    members: list[Identity]
    document: dict[str, Any]
    last_stage_s: dict[str, float] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __call__(self) -> None:
        out = Path(self.config.out) / str(next(self._numbers))
        with Dataset.open(out, self.document) as dataset:
            make_all(self.members, self.stages, dataset, self.config)
            dataset.finish()
        self.last_stage_s = read_stages(out / EVENTS)


def measure(bench: Bench, found: Found) -> None:
    """The run, its networks alone, and the two baselines, in turn."""
    long = bench.on_cpu and bench.size == "full"
    steps = SHORT_STEPS if long else STEPS
    num_identities = 1 if long else 4 if bench.on_cpu else 16
    num_images = num_identities * IMAGES_PER_CALL
    run, pool = open_run(bench, num_identities, steps)
    generator = run.stages.finisher.generator
    random = torch.Generator().manual_seed(0)
    embeddings = torch.randn(num_identities, generator.embedding_dim, generator=random)
    latents = draw_noise([(number, 0) for number in range(num_images)], generator.latent_shape)

    def alone() -> torch.Tensor:
        context = generator.condition(embeddings.repeat_interleave(IMAGES_PER_CALL, 0))
        clean = generator.denoise(context, lambda _: latents, steps=steps, guidance=GUIDANCE)
        return generator.decode(clean).images.cpu()

    published, batched = open_baselines(bench, found)
    theirs, _ = published(embeddings, latents, steps=steps, guidance=GUIDANCE)
    agreement = psnr(alone().numpy(), theirs)
    found.finding(AGREEMENT, agreement, target=target(AGREEMENT, bench.kind), unit=" dB", note=EQUAL_WORK)
    arms: dict[str, Arm] = {OURS: run, ALONE: alone}
    for name, baseline in ((B0, published), (B1, batched)):
        arms[name] = partial(baseline, embeddings, latents, steps=steps, guidance=GUIDANCE)
    timings = interleave(
        arms, num_rounds=NUM_ROUNDS, num_warmup=0 if long else 1, most_s=bench.budget.left_s * 0.5,
        device=bench.device,
    )  # fmt: skip
    forecast_s = foresee(run).total_s
    pool.shutdown()
    flops = bench.work["unet"].flops * 2 * steps + bench.work["vae"].flops
    ceiling = bench.rates.flops_per_s.get(bench.best_unet[1])
    for name, timing in timings.items():
        found.row(
            name, num_images=num_images, steps=steps, **timing.row(num_images),
            of_ceiling=None if ceiling is None else round(flops * num_images / timing.median_s / ceiling, 4),
            stage_s=run.last_stage_s if name == OURS else None,
        )  # fmt: skip
    conclude(timings, num_images, bench, found)
    shares = [forecast_s / seconds for seconds in timings[OURS].times_s]
    found.ratio("plan over the run it foresaw", Ratio(float(np.median(shares)), min(shares), max(shares)))


def foresee(run: Run) -> Forecast:
    """What `d2r-fast plan` would say of the run."""
    return forecast(run.config, run.stages, run.members, seconds=PLAN_S)


def read_stages(events: Path) -> dict[str, float]:
    """Seconds by stage of a dataset's shards, from its log."""
    total: Counter[str] = Counter()
    for line in events.read_text().splitlines():
        total.update(json.loads(line).get("stage_s", {}))
    return {stage: round(seconds, 3) for stage, seconds in total.items()}


def conclude(timings: dict[str, Timing], num_images: int, bench: Bench, found: Found) -> None:
    """The ratios that were asked for."""
    for title, slow in (
        ("pipeline over UNet and VAE alone", ALONE), ("pipeline over B0", B0), ("pipeline over B1", B1),
    ):  # fmt: skip
        note = f"it looks for faces from 20 pixels, ours from {least_face(bench)}" if slow == B0 else ""
        found.ratio(title, compare(timings[slow], timings[OURS]), target=target(title, bench.kind), note=note)
    title = "pipeline images/s"
    found.finding(title, num_images / timings[OURS].median_s, target=target(title, bench.kind))


def open_run(bench: Bench, num_identities: int, steps: int) -> tuple[Run, ThreadPoolExecutor]:
    """The run over drawn renders; the pool of threads is the caller's to shut down."""
    backend, precision = bench.best_unet
    source = bench.workspace / "renders"
    draw_samples(source, num_identities=num_identities, images_per_identity=RENDERS)
    height, width = bench.sides
    config = GenerateConfig(
        source=source, models=bench.models, out=bench.workspace / "datasets", backend=backend, dtype=NAMES[precision],
        engines=bench.engines, device=bench.device, batch_size=CPU_ROWS if bench.on_cpu else bench.fastest_batch,
        height=height, width=width, images_per_identity=IMAGES_PER_CALL, source_images_per_identity=RENDERS,
        steps=steps, guidance=GUIDANCE, attempts=1, min_face_size=least_face(bench),
        identities_per_shard=2,
    )  # fmt: skip
    Path(config.out).mkdir()
    pool = ThreadPoolExecutor()
    config = settle(config, bench.device)
    renders = open_source(source)
    members = select(renders, config)
    stages = open_stages(config, renders, bench.device, pool)
    return Run(config, stages, members, describe(config, renders, members)), pool


def open_baselines(bench: Bench, found: Found) -> tuple[Published, Batched]:
    """B0 as it is published, and B1 after a search for its best settings."""
    dtype = DTYPES[bench.best_unet[1]]
    published = Published(
        Drawer.open(bench.models, device=bench.device, dtype=dtype), PlainMTCNN(device=bench.device)
    )
    drawer = Drawer.open(bench.models, device=bench.device, dtype=dtype)
    say("bench: looking for diffusers' best settings")
    tuned = tune(
        drawer, batch_sizes=CPU_BATCHES if bench.on_cpu else CUDA_BATCHES,
        side=bench.sides[0] // bench.pixels_per_latent, compiled=not bench.on_cpu, most_s=bench.budget.left_s * 0.25,
    )  # fmt: skip
    for name, timing in tuned.timings.items():
        found.row(f"B1 candidate: {name}", **timing.row())
    found.finding("B1 batch size", tuned.batch_size, note=tuned.name)
    find = PlainMTCNN(device=bench.device, together=True, min_face_size=least_face(bench))
    return published, Batched(drawer, find, tuned.batch_size)


def least_face(bench: Bench) -> int:
    """The smallest face to look for, of ours and of B1: a quarter of the image. B0 has its library's default."""
    return max(20, min(bench.sides) // 4)
