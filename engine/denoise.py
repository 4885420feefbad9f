"""From noise to clean latents: the UNet, classifier-free guidance and the sampler's table."""

from collections.abc import Callable

import torch

from d2r_fast.engine.schedule import Schedule, step

UNet = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents (M, 4, h, w) float32, timesteps (M,) int64, context (M, 77, C)) -> predicted noise, float32."""

Renoise = Callable[[int], torch.Tensor]
"""k -> the N(0, 1) noise (N, 4, h, w) float32 to add after step k, where k = 1 is the first."""


def denoise(
    unet: UNet,
    context: torch.Tensor,
    unconditional: torch.Tensor,
    latents: torch.Tensor,
    schedule: Schedule,
    *,
    guidance: float,
    renoise: Renoise | None = None,
) -> torch.Tensor:
    """Runs the sampler over one batch.

    Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) is on where guidance > 1: the UNet then sees
    twice the batch, unconditional half first, and eps = uncond + guidance * (cond - uncond). The sampler's
    arithmetic is float32, whatever the networks' is.

    Args:
        unet: the network, on latents, timesteps and context.
        context: (N, 77, C) conditioning.
        unconditional: (77, C) conditioning of the empty prompt; not used without guidance.
        latents: (N, 4, h, w) float32 initial noise, N(0, 1).
        schedule: of the sampler, on the device of the latents.
        guidance: the guidance scale.
        renoise: fresh noise, needed by a schedule that adds any (LCM).

    Returns:
        (N, 4, h, w) float32 clean latents, in the VAE encoder's units times its scaling factor.
    """
    guided = guidance > 1
    if guided:
        context = torch.cat((unconditional.expand_as(context), context))
    x0 = torch.zeros_like(latents)
    for index, renoised in enumerate(schedule.renoised):
        inputs = torch.cat((latents, latents)) if guided else latents
        eps = unet(inputs, schedule.timesteps[index].expand(len(inputs)), context)
        if guided:
            uncond, cond = eps.chunk(2)
            eps = uncond + guidance * (cond - uncond)
        noise = None
        if renoised:
            assert renoise is not None, "this schedule adds noise after a step"
            noise = renoise(index + 1)
        latents, x0 = step(latents, eps, x0, schedule.table[index], noise)
    return latents
