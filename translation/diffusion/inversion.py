"""An image into the noise that DDIM would have drawn it from, and back: S evaluations each way, nothing random.

Going down, a step asks the network for the noise of x_k at timestep t_k and is exact. Going up, x_k is what is looked
for, so the noise of x_(k-1) at t_k stands in for it: what diffusers' DDIMInverseScheduler does in the same
loop. CompVis' sampler only goes down. Up and down cancel exactly where both evaluations give the same noise (a
network that is blind to what the step changes), and else up to an error that falls as the steps become more. No value
is clipped on the way, whatever a model's scheduler says: clipping loses what it cuts off.
"""

from collections.abc import Callable

from torch import Tensor

from d2r_fast.translation.diffusion.steps import Walk, move, timesteps_of

Noise = Callable[[Tensor, Tensor], Tensor]
"""(samples (B, ...), timesteps (B,) int64) -> the noise in each, of the samples' shape and dtype."""


def invert(x: Tensor, noise: Noise, walk: Walk) -> Tensor:
    """Samples (B, ...) of level 0, taken up to the last."""
    for timestep, leave, enter in walk.up():
        x = move(x, noise(x, timesteps_of(x, timestep)), leave, enter)
    return x


def generate(x: Tensor, noise: Noise, walk: Walk) -> Tensor:
    """Samples (B, ...) of the last level, taken down to level 0."""
    for timestep, leave, enter in walk.down():
        x = move(x, noise(x, timesteps_of(x, timestep)), leave, enter)
    return x
