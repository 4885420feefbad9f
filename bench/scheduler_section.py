"""Slots against static batches on a mixed list: 4 to 50 steps, half guided, 30 % given up half-way."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from d2r_fast.bench.context import Bench
from d2r_fast.bench.drawings import draw_noise, drawing, keyed_noise, run_drawings
from d2r_fast.bench.measure import NoTime, compare, interleave
from d2r_fast.bench.record import Found
from d2r_fast.bench.static_batches import Task, by_settings, mixed_tasks, rows_of_batches, run_batches
from d2r_fast.bench.targets import target
from d2r_fast.engine.backend import Networks
from d2r_fast.engine.config import Backend, Precision
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.models.load import load_scheduler_config
from d2r_fast.engine.schedule import Schedule, make_schedule
from d2r_fast.engine.scheduler import Drawing, Scheduler

NUM_TASKS = (640, 320, 160, 80, 40, 20)
"""Lengths of the list, of which the longest is taken that the time allows: the last images of a list leave slots
empty, and the longer it is the less that counts."""
LIST_SIDE = 64
"""Image side in pixels for full shapes on a CPU, where a row of more takes a second and a list thousands of them."""
CPU_ROWS, CUDA_ROWS = 4, 16
NUM_ROUNDS = 3
NUM_SOLO = 8
"""Images that are drawn again alone, to be compared bit for bit."""
ARRIVAL, SORTED, SLOTS = "static batches, as they arrive", "static batches, sorted by settings", "slots"


@dataclass(frozen=True)
class Mix:
    """The list, and what drawing it takes."""

    networks: Networks
    generator: Arc2FaceGenerator
    tasks: Sequence[Task]
    contexts: torch.Tensor
    schedules: dict[int, Schedule]
    batch_rows: int

    def drawings(self, tasks: Sequence[Task]) -> list[Drawing]:
        return [
            drawing(
                task.name, self.contexts[task.name], self.schedules[task.steps],
                guided=(task.guided,) * task.steps, probe=task.given_up,
            )
            for task in tasks
        ]  # fmt: skip

    def slots(self, tasks: Sequence[Task]) -> tuple[dict[int, torch.Tensor], Scheduler]:
        """Draws the tasks through the scheduler; an image that is looked at half-way is given up."""
        scheduler = self.generator.scheduler(keyed_noise(self.generator.latent_shape))
        return run_drawings(scheduler, self.drawings(tasks), judge=lambda _: False), scheduler

    def static(self, tasks: Sequence[Task]) -> dict[int, torch.Tensor]:
        """Draws the tasks in batches, in the order given."""
        initial = draw_noise([(task.name, 0) for task in self.tasks], self.generator.latent_shape)
        return run_batches(
            self.networks.unet, self.generator.unconditional, tasks, self.contexts,
            initial.to(self.generator.device), self.schedules, batch_rows=self.batch_rows,
        )  # fmt: skip


def measure(bench: Bench, found: Found) -> None:
    """Three ways to draw the list, the rows they run, and whether slots change an image."""
    backend, precision = bench.best_unet
    batch_rows = CPU_ROWS if bench.on_cpu else CUDA_ROWS
    mix = open_mix(bench, backend, precision, batch_rows)
    ordered = by_settings(mix.tasks)
    together, scheduler = mix.slots(mix.tasks)
    timings = interleave(
        {
            ARRIVAL: lambda: mix.static(mix.tasks),
            SORTED: lambda: mix.static(ordered),
            SLOTS: lambda: mix.slots(mix.tasks),
        },
        num_rounds=NUM_ROUNDS, num_warmup=0, most_s=bench.budget.left_s * 0.4, device=bench.device,
    )  # fmt: skip
    needed = sum(task.num_rows for task in mix.tasks)
    num_rows = {
        ARRIVAL: rows_of_batches(mix.tasks, batch_rows), SORTED: rows_of_batches(ordered, batch_rows),
        SLOTS: scheduler.rows_run,
    }  # fmt: skip
    for name, timing in timings.items():
        found.row(
            name, backend=backend, precision=precision, batch_size=batch_rows, **timing.row(len(mix.tasks)),
            num_rows=num_rows[name], occupancy=round(needed / num_rows[name], 4),
        )  # fmt: skip
    title = "slots over static batches"
    found.ratio(title, compare(timings[ARRIVAL], timings[SLOTS]), target=target(title, bench.kind))
    found.ratio("slots over sorted static batches", compare(timings[SORTED], timings[SLOTS]))
    found.finding(
        "slot occupancy",
        scheduler.rows_used / scheduler.rows_run,
        target=target("slot occupancy", bench.kind),
    )
    compare_solo(mix, together, bench, found)


def open_mix(bench: Bench, backend: Backend, precision: Precision, batch_rows: int) -> Mix:
    """The networks and the list."""
    small = bench.on_cpu and bench.size == "full"
    sides = (LIST_SIDE, LIST_SIDE) if small else bench.sides
    networks, generator = bench.open(backend, precision, batch_size=batch_rows, sides=sides)
    row_s = time_rows(networks, generator, batch_rows)
    tasks = affordable_tasks(bench.budget.left_s * 0.9, row_s, batch_rows)
    embeddings = torch.randn(len(tasks), generator.embedding_dim, generator=torch.Generator().manual_seed(0))
    config = load_scheduler_config(bench.models)
    schedules = {steps: make_schedule(config, "dpm++2m", steps) for steps in {task.steps for task in tasks}}
    return Mix(networks, generator, tasks, generator.condition(embeddings), schedules, batch_rows)


def time_rows(networks: Networks, generator: Arc2FaceGenerator, batch_rows: int) -> float:
    """Seconds of a row in the UNet."""
    latents = torch.zeros(batch_rows, *generator.latent_shape, device=generator.device)
    contexts = generator.unconditional.expand(batch_rows, -1, -1)
    times = torch.full((batch_rows,), 500, device=generator.device)
    arms = {"unet": lambda: networks.unet(latents, times, contexts)}
    return interleave(arms, num_rounds=3, device=generator.device)["unet"].median_s / batch_rows


def affordable_tasks(left_s: float, row_s: float, batch_rows: int) -> list[Task]:
    """The longest list that every way draws once, and slots once more, in the time, some images alone included.

    Raises:
        NoTime: not even the shortest.
    """
    for num in NUM_TASKS:
        tasks = mixed_tasks(num)
        needed = 2 * sum(task.num_rows for task in tasks)
        needed += rows_of_batches(tasks, batch_rows) + rows_of_batches(by_settings(tasks), batch_rows)
        needed += batch_rows * sum(task.steps for task in solo_tasks(tasks))
        if needed * row_s <= left_s:
            return tasks
    raise NoTime(
        f"the shortest list takes {needed * row_s:.0f} s and {left_s:.0f} are left: give --budget-s more"
    )


def solo_tasks(tasks: Sequence[Task]) -> list[Task]:
    """Those that are drawn again alone, from all over the list."""
    kept = [task for task in tasks if task.given_up is None]
    return kept[:: max(len(kept) // NUM_SOLO, 1)][:NUM_SOLO]


def compare_solo(mix: Mix, together: dict[int, torch.Tensor], bench: Bench, found: Found) -> None:
    """Draws some images again alone, and counts those that came out the same to the last bit."""
    some = solo_tasks(mix.tasks)
    same = sum(torch.equal(mix.slots([task])[0][task.name], together[task.name]) for task in some)
    title = "share of images equal to their solo run"
    note = f"of {len(some)}, bit for bit"
    found.finding(title, same / len(some), target=target(title, bench.kind), note=note)
