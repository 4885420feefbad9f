"""Static batches as a baseline: the same images as slots, and the rows that they are said to run."""

from collections import Counter

import pytest
import torch

from d2r_fast.bench.drawings import draw_noise, drawing, keyed_noise, run_drawings
from d2r_fast.bench.measure import NoTime
from d2r_fast.bench.scheduler_section import affordable_tasks
from d2r_fast.bench.static_batches import (
    Task,
    by_settings,
    in_batches,
    mixed_tasks,
    rows_of_batches,
    run_batches,
)
from d2r_fast.engine.models.configs import SCHEDULER_CONFIG
from d2r_fast.engine.schedule import make_schedule
from d2r_fast.engine.scheduler import Scheduler

SHAPE = (4, 2, 3)
SCHEDULES = {steps: make_schedule(SCHEDULER_CONFIG, "dpm++2m", steps) for steps in (4, 10, 25, 50)}


class CountingUNet:
    """Noise that depends on the latents, the time and the conditioning of its own row; rows are counted."""

    def __init__(self) -> None:
        self.num_rows = 0

    def __call__(self, latents: torch.Tensor, times: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        self.num_rows += len(latents)
        assert len(latents) == len(times) == len(context)
        return (
            latents.tanh() * (times / 1000)[:, None, None, None] + context.mean((1, 2))[:, None, None, None]
        )


def test_the_list_is_mixed_as_it_says() -> None:
    tasks = mixed_tasks(160)
    assert [task.name for task in tasks] == list(range(160))
    assert Counter(task.steps for task in tasks) == {4: 40, 10: 40, 25: 40, 50: 40}
    assert sum(task.guided for task in tasks) == 80
    rejected = [task for task in tasks if task.given_up]
    assert len(rejected) == 48
    assert {(task.steps, task.given_up) for task in rejected} == {(4, 2), (10, 4), (25, 10), (50, 20)}
    assert mixed_tasks(160) == tasks
    assert [task.steps for task in tasks] != sorted(task.steps for task in tasks)


def test_a_batch_takes_images_while_its_rows_last() -> None:
    plain, guided = [Task(n, 4, False, None) for n in range(4)], [Task(9, 4, True, None)]
    assert [len(batch) for batch in in_batches(plain, 4)] == [4]
    assert [len(batch) for batch in in_batches(plain[:2] + guided + plain[2:], 4)] == [2, 2, 1]
    assert [len(batch) for batch in in_batches(guided * 2 + plain, 2)] == [1, 1, 2, 2]
    assert in_batches([], 4) == []


@pytest.mark.parametrize("batch_rows", [2, 5, 8])
def test_static_batches_draw_the_images_that_slots_draw(batch_rows: int) -> None:
    tasks = mixed_tasks(40)
    contexts = torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(0)) / 4
    unconditional = torch.full((3, 2), 0.1)
    unet = CountingUNet()
    latents = draw_noise([(task.name, 0) for task in tasks], SHAPE)
    static = run_batches(unet, unconditional, tasks, contexts, latents, SCHEDULES, batch_rows=batch_rows)
    assert unet.num_rows == rows_of_batches(tasks, batch_rows)
    scheduler = Scheduler(unet, unconditional, keyed_noise(SHAPE), latent_shape=SHAPE, batch_rows=batch_rows)
    drawings = [
        drawing(t.name, contexts[t.name], SCHEDULES[t.steps], guided=(t.guided,) * t.steps, probe=t.given_up)
        for t in tasks
    ]
    slots = run_drawings(scheduler, drawings, judge=lambda _: False)
    assert set(slots) == {task.name for task in tasks if task.given_up is None}
    assert set(static) == {task.name for task in tasks}
    for name, latent in slots.items():
        torch.testing.assert_close(latent, static[name], rtol=1e-4, atol=1e-4)
    assert scheduler.rows_used == sum(task.num_rows for task in tasks)


def test_slots_are_full_and_save_what_was_asked_for() -> None:
    """The figures of `bench scheduler`, in rows: they do not depend on the network."""
    tasks, context = mixed_tasks(80), torch.zeros(1, 1)
    scheduler = Scheduler(
        CountingUNet(), context, keyed_noise((1, 1, 1)), latent_shape=(1, 1, 1), batch_rows=4
    )
    drawings = [
        drawing(t.name, context, SCHEDULES[t.steps], guided=(t.guided,) * t.steps, probe=t.given_up)
        for t in tasks
    ]
    run_drawings(scheduler, drawings, judge=lambda _: False)
    assert scheduler.rows_used / scheduler.rows_run >= 0.97
    assert rows_of_batches(tasks, 4) / scheduler.rows_run >= 1.6
    assert 1.1 < rows_of_batches(by_settings(tasks), 4) / scheduler.rows_run < 1.6


def test_the_list_is_as_long_as_the_time_allows() -> None:
    assert len(affordable_tasks(1e6, 1e-3, 4)) == 640
    assert 20 < len(affordable_tasks(20, 1e-3, 4)) < 640
    with pytest.raises(NoTime, match=r"the shortest list takes \d+ s and 5 are left: give --budget-s more"):
        affordable_tasks(5, 1.0, 4)
