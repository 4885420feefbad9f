"""DDIM's walk between an image and noise: which timesteps the network is told, and how noisy each stage is.

Song et al., "Denoising Diffusion Implicit Models" (arXiv 2010.02502), eq. 12 with eta 0. A walk of S steps has S + 1
levels: level 0 is the image, level k has the noise of timestep t_k. Both programs whose models are read here take the
timesteps T//S apart ("leading"), and differ in where they begin:

    diffusers   0, T//S, 2 T//S, ... plus `steps_offset`; level 0 is free of noise (`set_alpha_to_one`) or has that of
                timestep 0. "trailing" and "linspace" as its scheduler spaces them.
    CompVis     1, 1 + T//S, ...; level 0 has the noise of timestep 0: diffusers' with `steps_offset` 1 and without
                `set_alpha_to_one`. Where S does not divide T it takes more steps than it was asked for, and none of
                1000 (it looks for timestep 1000); here they are always S, and of T, which leave no room for an
                offset, begin at 0.

The level before t_k is always that of t_(k-1). diffusers looks T//S timesteps back instead, which is the same in
walks that are "leading" with an offset below that, and in the others where S divides T.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from d2r_fast.engine.errors import UserError

Spacing = Literal["leading", "trailing", "linspace"]
Step = tuple[int, float, float]
"""A timestep, and the cumulative alphas of the level that is left and of the one that is entered."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The noise that a model was trained with, and where its program's sampler looks at it.

    Attributes:
        alphas: cumulative products of 1 - beta at timesteps 0 to T - 1, falling, float64.
        spacing, offset: of the sampler's timesteps.
        alpha_of_image: level 0's.
    """

    alphas: tuple[float, ...]
    spacing: Spacing
    offset: int
    alpha_of_image: float

    def walk(self, num_steps: int) -> "Walk":
        """A walk of so many steps.

        Raises:
            UserError: more steps than the model was trained on.
        """
        most = len(self.alphas)
        if num_steps > most:
            raise UserError(
                f"steps {num_steps}: the model was trained on {most} timesteps: give at most {most}"
            )
        timesteps = tuple(int(t) for t in _timesteps(self, num_steps))
        return Walk(timesteps, (self.alpha_of_image, *(self.alphas[t] for t in timesteps)))


def _timesteps(schedule: Schedule, num_steps: int) -> Any:
    most = len(schedule.alphas)
    if schedule.spacing == "linspace":
        return np.linspace(0, most - 1, num_steps).round().astype(np.int64)
    if schedule.spacing == "trailing":
        return np.round(np.arange(most, 0, -most / num_steps)[::-1]).astype(np.int64) - 1
    stride = most // num_steps
    return np.arange(num_steps) * stride + min(schedule.offset, most - 1 - (num_steps - 1) * stride)


@dataclass(frozen=True, slots=True)
class Walk:
    """Timesteps t_1 < ... < t_S and the cumulative alphas of levels 0 to S."""

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]

    def up(self) -> Iterator[Step]:
        """From the image to noise."""
        yield from zip(self.timesteps, self.alphas, self.alphas[1:], strict=False)

    def down(self) -> Iterator[Step]:
        """From noise to the image: the same levels, in the other direction."""
        for timestep, lower, upper in reversed(list(self.up())):
            yield timestep, upper, lower


def move(x: Tensor, noise: Tensor, leave: float, enter: float) -> Tensor:
    """A sample at one level taken to another along its noise: eq. 12 of the paper with eta 0.

    x0 = (x - sqrt(1 - leave) noise) / sqrt(leave), and sqrt(enter) x0 + sqrt(1 - enter) noise is returned. The two
    factors are worked out in float64.

    Args:
        x, noise: (B, ...) of one dtype.
        leave, enter: cumulative alphas, above 0 and at most 1.
    """
    of_x = sqrt(enter / leave)
    of_noise = sqrt(1 - enter) - of_x * sqrt(1 - leave)
    return x * of_x + noise * of_noise


def timesteps_of(x: Tensor, timestep: int) -> Tensor:
    """The timestep for every row of x: (B,) int64, on its device."""
    return torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
