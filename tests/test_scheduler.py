"""Slots of UNet rows: the same images as one by one, bit for bit, in as few runs as there is work for."""

import itertools
import random as python_random
from collections import deque
from collections.abc import Callable

import pytest
import torch

from d2r_fast.engine.models.configs import SCHEDULER_CONFIG
from d2r_fast.engine.schedule import Schedule, guided_steps, make_schedule, step
from d2r_fast.engine.scheduler import Drawing, Finished, Probed, Scheduler
from d2r_fast.kernels.noise import normal

SHAPE = (4, 3, 5)
UNCONDITIONAL = torch.full((77, 8), 0.25)
SCHEDULES = {
    (sampler, steps): make_schedule(SCHEDULER_CONFIG, sampler, steps)  # type: ignore[arg-type]
    for sampler, steps in (("dpm++2m", 1), ("dpm++2m", 4), ("dpm++2m", 10), ("dpm++2m", 25), ("lcm", 4))
}


def unet(latents: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Depends on all it is given, each row on its own inputs alone and by the same arithmetic in any batch."""
    level = context[:, 3, 2] + timesteps.float() / 1000
    return torch.stack([torch.sin(row * 1.7 + shift) for row, shift in zip(latents, level, strict=True)])


class Counting:
    """A UNet that remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(self, latents: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        self.batches.append((latents, timesteps, context))
        return unet(latents, timesteps, context)


def noise(wanted: list[tuple[Drawing, int]]) -> torch.Tensor:
    return normal(torch.tensor([[drawing.name, 0, 0, k] for drawing, k in wanted]), SHAPE)


def drawing(
    name: int,
    schedule: Schedule,
    guidance: float = 1.0,
    interval: tuple[float, float] = (0, 1),
    probe: int | None = None,
) -> Drawing:
    context = torch.sin(torch.arange(77 * 8).reshape(77, 8) * (name + 1.0))
    return Drawing(
        name, context, schedule, guidance, guided_steps(len(schedule), guidance, interval), probe=probe
    )


def draw_alone(image: Drawing) -> torch.Tensor:
    """The textbook loop, one image, both rows of a guided step in one batch."""
    x = noise([(image, 0)])
    x0 = torch.zeros_like(x)
    for k, (time, row) in enumerate(zip(image.schedule.timesteps, image.schedule.table, strict=True)):
        eps = unet(x, time[None], image.context[None])
        if image.guided[k]:
            uncond = unet(x, time[None], UNCONDITIONAL[None])
            eps = uncond + image.guidance * (eps - uncond)
        fresh = noise([(image, k + 1)]) if row[5] != 0 else None
        x, x0 = step(x, eps, x0, row, fresh)
    return x[0]


def run(
    images: list[Drawing], *, rows: int, network: Callable[..., torch.Tensor] = unet
) -> dict[int, torch.Tensor]:
    scheduler = Scheduler(network, UNCONDITIONAL, noise, latent_shape=SHAPE, batch_rows=rows)
    waiting, done = deque(images), {}
    while waiting or scheduler.busy:
        while waiting and scheduler.hungry:
            scheduler.add(waiting.popleft())
        for event in scheduler.step():
            if isinstance(event, Finished):
                assert event.drawing.name not in done
                done[event.drawing.name] = event.latents
    return done


def mixed(num: int, seed: int = 0) -> list[Drawing]:
    """Both samplers, 1 to 25 steps, guidance on, off, and on for an interval."""
    draw = python_random.Random(seed)
    images = []
    for name in range(num):
        sampler, _ = kind = draw.choice(list(SCHEDULES))
        guidance = 1.0 if sampler == "lcm" else draw.choice([1.0, 3.0])
        images.append(drawing(name, SCHEDULES[kind], guidance, draw.choice([(0, 1), (0.2, 0.6)])))
    return images


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 13])
def test_every_image_equals_its_solo_run_bit_for_bit(rows: int) -> None:
    done = run(mixed(23), rows=rows)
    assert sorted(done) == list(range(23))
    for image in mixed(23):
        assert torch.equal(done[image.name], draw_alone(image)), image.name


def test_order_changes_nothing_but_the_order() -> None:
    shuffled = mixed(16)
    python_random.Random(5).shuffle(shuffled)
    first, second = run(mixed(16), rows=6), run(shuffled, rows=6)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_batch_has_the_same_shape() -> None:
    network = Counting()
    run(mixed(9), rows=5, network=network)
    for latents, timesteps, context in network.batches:
        assert latents.shape == (5, *SHAPE)
        assert timesteps.shape == (5,)
        assert timesteps.dtype == torch.int64
        assert context.shape == (5, 77, 8)


def test_batches_are_full_while_there_is_work() -> None:
    images = mixed(120)
    needed = sum(1 + guided for image in images for guided in image.guided)
    network = Counting()
    scheduler = Scheduler(network, UNCONDITIONAL, noise, latent_shape=SHAPE, batch_rows=16)
    for image in images:
        scheduler.add(image)
    while scheduler.busy:
        scheduler.step()
    assert scheduler.rows_used == needed
    assert scheduler.rows_run == 16 * len(network.batches)
    assert scheduler.rows_used / scheduler.rows_run >= 0.97
    # Only the tail, when fewer rows are left than fit, can be short: at most the steps of one image.
    assert scheduler.rows_run - needed <= 16 * 25


def test_a_uniform_list_that_divides_leaves_no_row_empty() -> None:
    images = [drawing(name, SCHEDULES["dpm++2m", 10], 3.0) for name in range(12)]
    scheduler = Scheduler(unet, UNCONDITIONAL, noise, latent_shape=SHAPE, batch_rows=8)
    for image in images:
        scheduler.add(image)
    while scheduler.busy:
        scheduler.step()
    assert scheduler.rows_run == scheduler.rows_used == 12 * 10 * 2


def test_a_guided_image_fits_where_one_row_does() -> None:
    image = drawing(0, SCHEDULES["dpm++2m", 4], 3.0)
    network = Counting()
    done = run([image], rows=1, network=network)
    assert len(network.batches) == 8
    assert torch.equal(done[0], draw_alone(drawing(0, SCHEDULES["dpm++2m", 4], 3.0)))


def test_guidance_off_ignores_the_unconditional_row() -> None:
    image = drawing(0, SCHEDULES["dpm++2m", 4])
    scheduler = Scheduler(
        unet, torch.full((77, 8), torch.nan), noise, latent_shape=SHAPE, batch_rows=3
    )  # fmt: skip
    scheduler.add(image)
    events = list(itertools.chain.from_iterable(scheduler.step() for _ in range(4)))
    assert torch.equal(events[0].latents, draw_alone(drawing(0, SCHEDULES["dpm++2m", 4])))


def test_interval_costs_its_rows_and_no_more() -> None:
    guided = guided_steps(25, 3.0, (0.2, 0.6))
    assert [k for k, on in enumerate(guided) if on] == list(range(5, 15))
    assert guided_steps(25, 1.0, (0.2, 0.6)) == (False,) * 25
    assert guided_steps(4, 3.0, (0, 1)) == (True,) * 4
    assert guided_steps(4, 3.0, (0.5, 0.5)) == (False,) * 4
    network = Counting()
    run([drawing(0, SCHEDULES["dpm++2m", 25], 3.0, (0.2, 0.6))], rows=1, network=network)
    assert len(network.batches) == 35


@pytest.mark.parametrize(("num", "rows"), [(2, 2), (3, 3), (4, 4), (6, 2)])
def test_images_end_together_and_leave_no_row_empty(num: int, rows: int) -> None:
    """Run oldest first, the last ones would end with half a batch to themselves."""
    counting = Counting()
    images = [drawing(n, SCHEDULES["dpm++2m", 25], 3.0, (0.2, 0.6)) for n in range(num)]
    run(images, rows=rows, network=counting)
    assert len(counting.batches) == -(-num * 35 // rows)


def test_an_image_that_is_not_finite_spoils_no_other() -> None:
    images = mixed(6)
    images[2].context[:] = torch.nan
    done = run(images, rows=4)
    assert not done[2].isfinite().all()
    for image in mixed(6):
        if image.name != 2:
            assert torch.equal(done[image.name], draw_alone(image))


def test_probe_gives_the_predicted_image_and_the_run_goes_on() -> None:
    image = drawing(7, SCHEDULES["dpm++2m", 4], 3.0, probe=2)
    scheduler = Scheduler(unet, UNCONDITIONAL, noise, latent_shape=SHAPE, batch_rows=2)
    scheduler.add(image)
    events = [scheduler.step() for _ in range(4)]
    assert [[type(event) for event in found] for found in events] == [[], [Probed], [], [Finished]]
    x, x0 = noise([(image, 0)]), torch.zeros(1, *SHAPE)
    for time, row in zip(image.schedule.timesteps[:2], image.schedule.table[:2], strict=True):
        cond, uncond = unet(x, time[None], image.context[None]), unet(x, time[None], UNCONDITIONAL[None])
        x, x0 = step(x, uncond + 3.0 * (cond - uncond), x0, row)
    assert torch.equal(events[1][0].latents, x0[0])
    assert torch.equal(events[3][0].latents, draw_alone(drawing(7, SCHEDULES["dpm++2m", 4], 3.0)))


def test_a_dropped_image_makes_room_and_changes_no_other() -> None:
    images = mixed(8)
    gone = {1, 4}
    scheduler = Scheduler(unet, UNCONDITIONAL, noise, latent_shape=SHAPE, batch_rows=4)
    for image in images:
        scheduler.add(image)
    scheduler.step()
    assert [scheduler.drop(image) for image in images if image.name in gone] == [True, True]
    assert not scheduler.drop(images[1])
    done = {}
    while scheduler.busy:
        for event in scheduler.step():
            done[event.drawing.name] = event.latents
    assert sorted(done) == [0, 2, 3, 5, 6, 7]
    for image in mixed(8):
        if image.name not in gone:
            assert torch.equal(done[image.name], draw_alone(image))


def test_a_short_image_is_not_overtaken_for_ever() -> None:
    """Long ones go first, but each that comes later counts a step less than the one before."""
    scheduler = Scheduler(unet, UNCONDITIONAL, noise, latent_shape=SHAPE, batch_rows=4)
    scheduler.add(drawing(0, SCHEDULES["dpm++2m", 1]))
    names, finished = itertools.count(1), list[int]()
    while 0 not in finished and len(finished) < 200:
        while scheduler.hungry:
            for _ in range(4):
                scheduler.add(drawing(next(names), SCHEDULES["dpm++2m", 25]))
        finished += [event.drawing.name for event in scheduler.step()]
    assert 4 <= len(finished) <= 32


def test_it_asks_for_no_more_images_than_it_needs() -> None:
    scheduler = Scheduler(unet, UNCONDITIONAL, noise, latent_shape=SHAPE, batch_rows=6)
    names = itertools.count()
    most = 0
    for _ in range(40):
        added = 0
        while scheduler.hungry:
            scheduler.add(drawing(next(names), SCHEDULES["dpm++2m", 4], 3.0))
            added += 1
        most = max(most, added)
        scheduler.step()
    assert most <= 3
    assert scheduler.rows_used == scheduler.rows_run


def test_lcm_asks_for_noise_after_every_step_but_the_last() -> None:
    asked: list[int] = []

    def recorded(wanted: list[tuple[Drawing, int]]) -> torch.Tensor:
        asked.extend(k for _, k in wanted)
        return noise(wanted)

    scheduler = Scheduler(unet, UNCONDITIONAL, recorded, latent_shape=SHAPE, batch_rows=1)
    scheduler.add(drawing(0, SCHEDULES["lcm", 4]))
    while scheduler.busy:
        scheduler.step()
    assert asked == [0, 1, 2, 3]
