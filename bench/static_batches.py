"""Mixed jobs as a fixed batch runs them: the scheduler's baseline.

A batch takes jobs in their order until its rows are full, and runs until the longest of them is done: a job that
has ended, or that was given up half-way, keeps its rows to the end. Where one job of a batch has guidance all of
its images take two rows, as diffusers' pipeline does with a batch of prompts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from d2r_fast.engine.schedule import Schedule, step
from d2r_fast.engine.scheduler import UNet


@dataclass(frozen=True, slots=True)
class Task:
    """A job of the mixed list.

    Attributes:
        name: its number in the list.
        steps: UNet evaluations.
        guided: whether guidance is on, in all of them.
        given_up: number of the step after which the image is dropped; None for images that are kept.
    """

    name: int
    steps: int
    guided: bool
    given_up: int | None

    @property
    def num_rows(self) -> int:
        """Rows of the UNet that the job needs, and no more."""
        return (self.given_up or self.steps) * (1 + self.guided)


def mixed_tasks(num: int, *, seed: int = 0) -> list[Task]:
    """A list of 4, 10, 25 and 50 steps, half of it guided, 30 % given up after 40 % of their steps.

    Every combination occurs equally often where `num` is a multiple of 80; the order is random.
    """
    tasks = []
    for index in range(num):
        steps = (4, 10, 25, 50)[index % 4]
        rejected = (index // 8) % 10 in (1, 4, 7)
        given_up = max(1, round(0.4 * steps)) if rejected else None
        tasks.append((steps, bool((index // 4) % 2), given_up))
    random.Random(seed).shuffle(tasks)
    return [Task(name, *task) for name, task in enumerate(tasks)]


def in_batches(tasks: Sequence[Task], batch_rows: int) -> list[list[Task]]:
    """The tasks of each batch, in order: as many images as the rows hold."""
    batches: list[list[Task]] = []
    for task in tasks:
        grown = [*batches[-1], task] if batches else [task]
        if batches and len(grown) * images_rows(grown) <= batch_rows:
            batches[-1] = grown
        else:
            batches.append([task])
    return batches


def images_rows(batch: Sequence[Task]) -> int:
    """Rows that each image of a batch takes: two where any of them has guidance."""
    return 1 + any(task.guided for task in batch)


def by_settings(tasks: Sequence[Task]) -> list[Task]:
    """Tasks of equal steps and guidance next to each other, as a careful user would sort them."""
    return sorted(tasks, key=lambda task: (task.steps, task.guided))


def rows_of_batches(tasks: Sequence[Task], batch_rows: int) -> int:
    """Rows that the UNet runs for the list, in its order."""
    return sum(batch_rows * max(task.steps for task in batch) for batch in in_batches(tasks, batch_rows))


@torch.inference_mode()
def run_batches(
    unet: UNet, unconditional: torch.Tensor, tasks: Sequence[Task], contexts: torch.Tensor, latents: torch.Tensor,
    schedules: dict[int, Schedule], *, batch_rows: int,
) -> dict[int, torch.Tensor]:  # fmt: skip
    """Runs the list in fixed batches; those that are given up are finished all the same.

    Args:
        unet: the network, on exactly `batch_rows` rows.
        unconditional: (77, C) of the empty prompt.
        tasks: the jobs, in the order in which they are run.
        contexts: (N, 77, C) conditioning, by name.
        latents: (N, 4, h, w) float32 initial noise, by name.
        schedules: by number of steps, of a sampler that adds no noise.
        batch_rows: rows of one run of the UNet.

    Returns:
        Clean latents (4, h, w) by name.
    """
    clean: dict[int, torch.Tensor] = {}
    for batch in in_batches(tasks, batch_rows):
        names = [task.name for task in batch]
        clean |= _run_batch(
            unet, unconditional, batch, contexts[names], latents[names], schedules, batch_rows
        )
    return clean


def _run_batch(
    unet: UNet, unconditional: torch.Tensor, batch: Sequence[Task], contexts: torch.Tensor, x: torch.Tensor,
    schedules: dict[int, Schedule], batch_rows: int,
) -> dict[int, torch.Tensor]:  # fmt: skip
    guided = images_rows(batch) == 2
    rows = torch.cat([contexts, unconditional.expand_as(contexts)]) if guided else contexts
    scale = torch.tensor([3.0 if task.guided else 1.0 for task in batch]).to(x).view(-1, 1, 1, 1)
    x0 = torch.zeros_like(x)
    clean: dict[int, torch.Tensor] = {}
    for number in range(max(task.steps for task in batch)):
        # A job that has ended goes on with the numbers of its last step; its result has been taken.
        at = [(schedules[task.steps], min(number, task.steps - 1)) for task in batch]
        times = torch.stack([schedule.timesteps[k] for schedule, k in at]).to(x.device)
        table = torch.stack([schedule.table[k] for schedule, k in at]).to(x.device)
        eps = _predict(unet, x, times, rows, batch_rows)
        if guided:
            cond, uncond = eps.chunk(2)
            eps = uncond + scale * (cond - uncond)
        x, x0 = step(x, eps, x0, table)
        clean |= {task.name: x[place] for place, task in enumerate(batch) if number == task.steps - 1}
    return clean


def _predict(
    unet: UNet, x: torch.Tensor, times: torch.Tensor, contexts: torch.Tensor, batch_rows: int
) -> torch.Tensor:
    """Noise for all rows of a batch, which is filled up with its last row."""
    copies = len(contexts) // len(x)
    fill = torch.arange(batch_rows, device=x.device).clamp(max=len(contexts) - 1)
    eps = unet(x.repeat(copies, 1, 1, 1)[fill], times.repeat(copies)[fill], contexts[fill])
    return eps[: len(contexts)]
