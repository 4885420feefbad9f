"""Ways to an image on one backend: all steps guided, an interval of them, few steps without guidance.

Every way draws the same number of images from the same noise through the same networks, decoding included. What
the numbers in the weights are does not matter for the time, so LCM's steps run on the weights that are there.
"""

from functools import partial

import torch

from d2r_fast.bench.context import Bench
from d2r_fast.bench.drawings import drawing, keyed_noise, run_drawings
from d2r_fast.bench.measure import compare, interleave
from d2r_fast.bench.record import Found
from d2r_fast.bench.targets import target
from d2r_fast.engine.models.load import load_scheduler_config
from d2r_fast.engine.schedule import Schedule, guided_steps, make_schedule

STEPS, FEW_STEPS = 25, 4
INTERVAL = (0.2, 0.6)
"""Ten of twenty-five steps."""
NUM_ROUNDS = 5
ALL, PART, FEW = "25 steps with guidance", "guidance on 10 of 25 steps", "LCM-4"


def measure(bench: Bench, found: Found) -> None:
    """Three ways in turn, on the backend that runs the UNet fastest."""
    backend, precision = bench.best_unet
    batch_rows = bench.fastest_batch
    _, generator = bench.open(backend, precision, batch_size=batch_rows, sides=bench.sides)
    num_images = batch_rows
    embeddings = torch.randn(num_images, generator.embedding_dim, generator=torch.Generator().manual_seed(0))
    contexts = generator.condition(embeddings)
    noise = keyed_noise(generator.latent_shape)
    config = load_scheduler_config(bench.models)

    def draw(schedule: Schedule, guided: tuple[bool, ...]) -> object:
        drawings = [drawing(n, context, schedule, guided=guided) for n, context in enumerate(contexts)]
        clean = run_drawings(generator.scheduler(noise), drawings)
        return generator.decode(torch.stack([clean[n] for n in range(num_images)]))

    ways = {
        ALL: (make_schedule(config, "dpm++2m", STEPS), guided_steps(STEPS, 3.0, (0.0, 1.0))),
        PART: (make_schedule(config, "dpm++2m", STEPS), guided_steps(STEPS, 3.0, INTERVAL)),
        FEW: (make_schedule(config, "lcm", FEW_STEPS), (False,) * FEW_STEPS),
    }
    draw(*ways[FEW])
    timings = interleave(
        {name: partial(draw, *way) for name, way in ways.items()},
        num_rounds=NUM_ROUNDS, num_warmup=0, most_s=bench.budget.left_s * 0.6, device=bench.device,
    )  # fmt: skip
    for name, (schedule, guided) in ways.items():
        flops = bench.work["unet"].flops * (len(schedule) + sum(guided)) + bench.work["vae"].flops
        per_s = num_images / timings[name].median_s
        ceiling = bench.rates.flops_per_s.get(precision)
        found.row(
            name, backend=backend, precision=precision, batch_size=batch_rows, num_images=num_images,
            **timings[name].row(num_images), tflop_per_image=float(f"{flops / 1e12:.5g}"),
            of_ceiling=None if ceiling is None else round(flops * per_s / ceiling, 4),
        )  # fmt: skip
    for title, name in ((f"{FEW} over {ALL}", FEW), (f"{PART} over all", PART)):
        found.ratio(
            title, compare(timings[ALL], timings[name]), target=target(title, bench.kind),
            note=f"{backend} {precision}, decoding included",
        )  # fmt: skip
