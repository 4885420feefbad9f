"""`d2r-fast plan`: what a run will take, from a few seconds of its own work on this machine.

Every stage is timed alone on the run's networks and shapes: rows of the UNet, the finishing of images, the
embedding of renders. How many of each a run needs is known beforehand. On a CPU the stages share the same
cores, so their times add up. On CUDA they overlap and the slower of sampling and finishing sets the pace, but
sampling waits for the first shard to be embedded, and the last images are finished after it. Images that will
be drawn twice are not foreseen.
"""

import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.device import device_name, find_device
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.finish import Outcome, Task
from d2r_fast.engine.flow import Stages
from d2r_fast.engine.person import Person
from d2r_fast.engine.pipeline import open_stages, prepare, settle
from d2r_fast.engine.schedule import guided_steps
from d2r_fast.engine.source import Identity
from d2r_fast.kernels.noise import normal

ROW_BYTES = 600
"""What an image's rows in the tables take, and its members in a tar beyond their content on average."""
TAR_BYTES = 3 * 512 + 2 * 512
"""Headers and padding of an image's three members in a tar."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run takes.

    Attributes:
        num_images: that are wanted.
        num_rows: of the UNet, over all of them.
        row_s, image_s, identity_s: seconds per UNet row, per finished image, per identity embedded.
        total_s: of the run, without starting up.
        disk_bytes: of the dataset.
        memory_bytes: of the process at its largest so far; on CUDA also `gpu_bytes`, all that is in use there.
    """

    num_images: int
    num_rows: int
    row_s: float
    image_s: float
    identity_s: float
    total_s: float
    disk_bytes: int
    memory_bytes: int
    gpu_bytes: int


def run_plan(config: GenerateConfig, *, seconds: float) -> int:
    """The `plan` command: measure, and print the forecast.

    Args:
        config: of the run; nothing is written to its `out`.
        seconds: to time the UNet for, at least.

    Raises:
        UserError: as `generate` would, or no identity of the source can be used.
    """
    device = find_device(config.device)
    config = settle(config, device)
    source, members = prepare(config)
    with ThreadPoolExecutor() as pool:
        stages = open_stages(config, source, device, pool)
        found = forecast(config, stages, members, seconds=seconds)
    on = device_name(device)
    disk = _room(config.out)
    print(f"images: {found.num_images:,} of {len(members):,} identities, {found.num_rows:,} UNet rows")
    print(
        f"measured on {on}, backend {config.backend}, {config.dtype}: {found.row_s * 1e3:.3g} ms a UNet row, "
        f"{found.image_s * 1e3:.3g} ms to finish an image, {found.identity_s * 1e3:.3g} ms to embed an identity"
    )
    print(f"time: {_span(found.total_s)}, {found.num_images / found.total_s:.3g} images/s")
    print(f"disk: {found.disk_bytes / 1e9:.3g} GB{disk}")
    on_card = f", {found.gpu_bytes / 1e9:.3g} GB on the GPU" if found.gpu_bytes else ""
    print(f"memory: {found.memory_bytes / 1e9:.3g} GB{on_card}")
    return 0


def forecast(config: GenerateConfig, stages: Stages, members: list[Identity], *, seconds: float) -> Forecast:
    """Times each stage, and works out what the run takes."""
    met_s, person = _time_meeting(stages, members)
    row_s = _time_rows(stages, person, config, seconds=seconds)
    image_s, image_bytes = _time_finishing(stages, person, seconds=seconds)
    num_images = len(members) * config.images_per_identity
    num_rows = sum(
        config.images_per_identity * _rows(config, stages.steps.get(identity.name, config.steps))
        for identity in members
    )
    sampling_s, finishing_s = num_rows * row_s, num_images * image_s
    device = stages.finisher.generator.device
    on_gpu = device != "cpu"
    if on_gpu:
        before_s = min(len(members), config.identities_per_shard) * met_s
        together_s = before_s + max(sampling_s + min(num_images, stages.finish_batch) * image_s, finishing_s)
    else:
        together_s = sampling_s + finishing_s + len(members) * met_s
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Forecast(
        num_images=num_images, num_rows=num_rows, row_s=row_s, image_s=image_s, identity_s=met_s, total_s=together_s,
        disk_bytes=int(num_images * (image_bytes + ROW_BYTES + TAR_BYTES)),
        memory_bytes=peak_kb * 1024, gpu_bytes=_used_on(device) if on_gpu else 0,
    )  # fmt: skip


def _rows(config: GenerateConfig, steps: int) -> int:
    return steps + sum(guided_steps(steps, config.guidance, config.guidance_interval))


def _time_meeting(stages: Stages, members: list[Identity]) -> tuple[float, Person]:
    """Seconds per identity, and the first that can be made."""
    for label, identity in enumerate(members):
        person = stages.host.meet(label, identity).person
        if person is not None:
            device = stages.finisher.generator.device
            taken_s = min(_timed(partial(stages.host.meet, label, identity), device) for _ in range(3))
            return taken_s, person
    raise UserError(f"no identity of {stages.host.source.root} can be used: `d2r-fast embed` says why")


def _time_rows(stages: Stages, person: Person, config: GenerateConfig, *, seconds: float) -> float:
    """Seconds per row of the UNet in full batches."""
    generator = stages.finisher.generator
    context = generator.condition(torch.from_numpy(person.latents[:1]), stages.offset)[0]
    scheduler = generator.scheduler(
        lambda wanted: normal(
            torch.tensor([[person.key, 0, 0, k] for _, k in wanted]), generator.latent_shape
        )
    )

    def run() -> None:
        while scheduler.hungry:
            scheduler.add(
                generator.drawing(
                    0,
                    context,
                    steps=config.steps,
                    guidance=config.guidance,
                    interval=config.guidance_interval,
                )
            )
        scheduler.step()

    run()  # the first batch also warms up
    spent_s, num_batches = 0.0, 0
    while num_batches < 3 or spent_s < seconds:
        spent_s += _timed(run, generator.device)
        num_batches += 1
    return spent_s / num_batches / scheduler.batch_rows


def _time_finishing(stages: Stages, person: Person, *, seconds: float) -> tuple[float, float]:
    """Seconds to finish an image, and bytes of an encoded one."""
    generator, num = stages.finisher.generator, stages.finish_batch
    jobs = person.jobs(stages.finisher.recipe)
    tasks: list[Task] = [(jobs[place % len(jobs)], person) for place in range(num)]
    keys = torch.tensor([[person.key, place, 0, 0] for place in range(num)])
    latents = normal(keys, generator.latent_shape).to(generator.device)
    outcomes: list[Outcome] = []

    def finish() -> None:
        outcomes[:] = stages.finisher.finish(tasks[:num], latents[:num])

    if generator.device == "cpu":  # where a whole batch may take a minute
        num = min(num, torch.get_num_threads())
        if _timed(finish, generator.device) * stages.finish_batch / num < seconds / 3:
            num = stages.finish_batch
    taken_s = min(_timed(finish, generator.device) for _ in range(3))
    sizes = [len(outcome.image) for outcome in outcomes if outcome.image is not None]
    return taken_s / num, sum(sizes) / len(sizes) if sizes else 0.0


def _timed(work: Callable[[], object], device: str) -> float:
    started_s = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started_s


def _used_on(device: str) -> int:
    """Bytes of a card in use, by whatever library: torch's own count knows torch's tensors alone."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _room(out: Path | str) -> str:
    """What a folder's disk has left; nobody says of a URL."""
    if isinstance(out, str):
        return f" at {out}"
    return f"; {shutil.disk_usage(_existing(out)).free / 1e9:.3g} GB free at {out}"


def _existing(path: Path) -> Path:
    """The path or its nearest parent that is there."""
    return next(place for place in (path.resolve(), *path.resolve().parents) if place.exists())


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
