"""Images for the scheduler without a dataset: what to draw, and how to run it to the end."""

from collections.abc import Callable, Sequence

import torch

from d2r_fast.engine.schedule import Schedule
from d2r_fast.engine.scheduler import Drawing, Finished, Probed, Scheduler
from d2r_fast.kernels.noise import identity_key, normal

Judge = Callable[[Probed], bool]
"""Whether an image is worth going on with."""


def draw_noise(pairs: Sequence[tuple[int, int]], latent_shape: tuple[int, ...]) -> torch.Tensor:
    """Noise (n, 4, h, w) of n pairs of an image's number and k, a function of both alone."""
    key = identity_key(0, "bench")
    return normal(torch.tensor([[key, name, 0, k] for name, k in pairs]), latent_shape)


def keyed_noise(latent_shape: tuple[int, ...]) -> Callable[[list[tuple[Drawing, int]]], torch.Tensor]:
    """The same for drawings whose name is their number, as the scheduler asks for it."""
    return lambda wanted: draw_noise([(drawing.name, k) for drawing, k in wanted], latent_shape)


def run_drawings(
    scheduler: Scheduler, drawings: Sequence[Drawing], judge: Judge = lambda _: True
) -> dict[int, torch.Tensor]:
    """Runs all of them through the scheduler; the clean latents of those that were not dropped, by name."""
    clean: dict[int, torch.Tensor] = {}
    for waiting in drawings:  # all at once, so that the scheduler can take the long ones first
        scheduler.add(waiting)
    while scheduler.busy:
        for event in scheduler.step():
            if isinstance(event, Finished):
                clean[event.drawing.name] = event.latents
            elif not judge(event):
                scheduler.drop(event.drawing)
    return clean


def drawing(
    name: int, context: torch.Tensor, schedule: Schedule, *, guided: Sequence[bool], probe: int | None = None
) -> Drawing:
    """An image of guidance scale 3 where it is guided."""
    return Drawing(
        name=name, context=context, schedule=schedule, guidance=3.0, guided=tuple(guided), probe=probe
    )
