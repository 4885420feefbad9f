"""Finding the latent of one image by optimisation, as stylegan2-ada's projector does, with a distance of our own.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020), appendix D: Adam on the latent and
on the noise, a learning rate that rises over the first 5 % and falls over the last 25 %, noise on the latent that
fades until 75 %, and a penalty on noise that carries a picture. The projector compares features of VGG-16 in a
TorchScript file, which is a program and is not run here. In its place stand squared differences of pixels on a pyramid
of halved images: no network judges, so that none that knows faces does.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2r_fast.kernels.noise import normal
from d2r_fast.translation.stylegan.generator import Generator
from d2r_fast.translation.stylegan.networks import averaged

NUM_SAMPLES, SAMPLE_SEED = 10_000, 123
"""Latents whose mean is where the search begins and whose spread scales the noise; both the projector's."""
LEARNING_RATE = 0.1
RISE, FALL = 0.05, 0.25
"""Shares of the steps over which the learning rate rises and falls."""
NOISE_FACTOR, NOISE_SHARE = 0.05, 0.75
NOISE_PENALTY = 1e5
COARSEST = 8
"""Side of the last picture of a pyramid."""


@dataclass(frozen=True, slots=True)
class Latents:
    """What is known of W: its mean (style_dim,), and the root of the mean squared distance from it."""

    mean: Tensor
    spread: float


def sample_latents(generator: Generator) -> Latents:
    """From the same normal numbers that the projector draws."""
    drawn = np.random.RandomState(SAMPLE_SEED).standard_normal((NUM_SAMPLES, generator.shape.style_dim))
    latents = generator.style(torch.from_numpy(drawn.astype(np.float32)))
    mean = latents.mean(0)
    return Latents(mean, float((latents - mean).square().sum().div(NUM_SAMPLES).sqrt()))


def project(
    generator: Generator,
    target: Tensor,
    key: Tensor,
    *,
    latents: Latents,
    num_steps: int,
    num_rows: int,
    watch: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """The generator's image that is nearest to one given, its noise found along.

    Args:
        generator: without gradients, on the target's device.
        target: (1, 3, side, side) float32 in [-1, 1]; side a divisor of the generator's.
        key: (2,) int64 on the CPU: the identity's key and the image's number, from which alone noise is drawn.
        latents: as `sample_latents` gives them.
        num_steps: of Adam.
        num_rows: 1 for W, the generator's num_styles for W+.
        watch: called with the number of steps done.

    Returns:
        (1, 3, side, side) float32.
    """
    draw = partial(_draw, key, device=target.device)
    with _gradients():
        target = target.clone()
        row = latents.mean.to(target.device).repeat(1, num_rows, 1).requires_grad_(True)
        noises = [
            draw(tuple(noise.shape), attempt=1 + number, step=0).requires_grad_(True)
            for number, noise in enumerate(generator.noises.listed())
        ]
        optimiser = torch.optim.Adam([row, *noises], lr=LEARNING_RATE, betas=(0.9, 0.999))
        for step in range(num_steps):
            progress = step / num_steps
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * learning_rate_at(progress)
            shaken = row + draw(tuple(row.shape), attempt=0, step=step + 1) * (
                latents.spread * shake_at(progress)
            )
            image = averaged(generator(_all_rows(shaken, generator), noises), target.shape[-1])
            loss = distance(image, target) + NOISE_PENALTY * sum(map(picture_in, noises))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            for noise in noises:
                _normalise(noise)
            watch(step + 1)
        with torch.no_grad():
            return averaged(generator(_all_rows(row, generator), noises), target.shape[-1])


@contextmanager
def _gradients() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _draw(key: Tensor, shape: tuple[int, ...], *, attempt: int, step: int, device: torch.device) -> Tensor:
    """Normal numbers named by key, attempt and step, drawn on the CPU, so that they are the same on every machine."""
    words = torch.cat([key, torch.tensor([attempt, step])])[None]
    return normal(words, shape[1:]).to(device)


def _all_rows(row: Tensor, generator: Generator) -> Tensor:
    return row if row.shape[1] == generator.shape.num_styles else row.repeat(1, generator.shape.num_styles, 1)


def learning_rate_at(progress: float) -> float:
    """Share of the learning rate, 0 to 1, at a share of the steps."""
    fall = 0.5 - 0.5 * math.cos(min(1.0, (1 - progress) / FALL) * math.pi)
    return fall * min(1.0, progress / RISE)


def shake_at(progress: float) -> float:
    """Noise on the latent in units of the latents' spread."""
    return NOISE_FACTOR * max(0.0, 1 - progress / NOISE_SHARE) ** 2


def distance(images: Tensor, targets: Tensor) -> Tensor:
    """Mean squared differences of (1, 3, side, side), summed over the image and its halves down to 8 pixels."""
    total = F.mse_loss(images, targets)
    while images.shape[-1] > COARSEST:
        images, targets = F.avg_pool2d(images, 2), F.avg_pool2d(targets, 2)
        total = total + F.mse_loss(images, targets)
    return total


def picture_in(noise: Tensor) -> Tensor:
    """Squared means of neighbours' products, over (1, 1, side, side) and its halves down to 8 pixels: 0 in noise."""
    total = noise.new_zeros(())
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, axis)).mean().square()
        if noise.shape[-1] <= COARSEST:
            return total
        noise = F.avg_pool2d(noise, 2)


@torch.no_grad()
def _normalise(noise: Tensor) -> None:
    noise -= noise.mean()
    noise *= noise.square().mean().rsqrt()


class Clock:
    """Says once, after the first few steps, how long one image takes.

    Args:
        num_steps: of an image.
        say: where the line goes.
    """

    FIRST, LAST = 2, 7

    def __init__(self, num_steps: int, say: Callable[[str], None]) -> None:
        self._num_steps, self._say, self._started_s = num_steps, say, 0.0
        self._said = num_steps < self.LAST

    def __call__(self, step: int) -> None:
        """Counts a step as done."""
        if self._said:
            return
        if step == self.FIRST:
            self._started_s = time.monotonic()
        elif step == self.LAST:
            self._said = True
            each_s = (time.monotonic() - self._started_s) / (self.LAST - self.FIRST)
            self._say(
                f"stylegan-inversion: {self._num_steps} steps an image, about {each_s * self._num_steps:.3g} s: "
                "for tens of images; --latent encoder takes one step"
            )
