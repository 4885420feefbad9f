"""The sampling loop with a UNet of a few lines: what it is called with, and what is made of its answers."""

import pytest
import torch

from d2r_fast.engine.denoise import denoise
from d2r_fast.engine.models.configs import SCHEDULER_CONFIG
from d2r_fast.engine.schedule import make_schedule, step

DPM = make_schedule(SCHEDULER_CONFIG, "dpm++2m", 4)
LCM = make_schedule(SCHEDULER_CONFIG, "lcm", 4)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """A UNet that predicts a constant per context, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(self, latents: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        self.calls.append((latents, timesteps, context))
        return context[:, :1, :1, None].expand_as(latents)


def test_guided_unet_sees_unconditional_first_and_a_timestep_per_sample() -> None:
    unet, context, unconditional, latents = (
        Recorder(),
        random(3, 77, 8),
        random(77, 8, seed=1),
        random(3, 4, 5, 6),
    )
    denoise(unet, context, unconditional, latents, DPM, guidance=3.0)
    assert [call[1].tolist() for call in unet.calls] == [[int(t)] * 6 for t in DPM.timesteps]
    for inputs, timesteps, contexts in unet.calls:
        assert timesteps.dtype == torch.int64
        assert torch.equal(inputs[:3], inputs[3:])
        assert torch.equal(contexts[:3], unconditional.expand(3, -1, -1))
        assert torch.equal(contexts[3:], context)
    assert torch.equal(unet.calls[0][0][:3], latents)


@pytest.mark.parametrize("guidance", [1.5, 3.0, 7.5])
def test_guidance_formula(guidance: float) -> None:
    context, unconditional, latents = random(2, 77, 8), random(77, 8, seed=1), random(2, 4, 5, 6)
    result = denoise(Recorder(), context, unconditional, latents, DPM, guidance=guidance)
    mixed = unconditional[0, 0] + guidance * (context[:, 0, 0] - unconditional[0, 0])
    x, x0 = latents, torch.zeros_like(latents)
    for row in DPM.table:
        x, x0 = step(x, mixed[:, None, None, None].expand_as(x), x0, row)
    torch.testing.assert_close(result, x)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_without_guidance_the_unet_sees_the_conditional_batch_only(guidance: float) -> None:
    unet, context = Recorder(), random(2, 77, 8)
    denoise(unet, context, torch.full((77, 8), torch.nan), random(2, 4, 5, 6), DPM, guidance=guidance)
    assert all(torch.equal(call[2], context) for call in unet.calls)
    assert all(len(call[0]) == len(call[1]) == 2 for call in unet.calls)


def test_lcm_asks_for_noise_after_every_step_but_the_last() -> None:
    asked = []

    def renoise(k: int) -> torch.Tensor:
        asked.append(k)
        return random(2, 4, 5, 6, seed=k)

    context = random(2, 77, 8)
    result = denoise(Recorder(), context, context[0], random(2, 4, 5, 6), LCM, guidance=1, renoise=renoise)
    assert asked == [1, 2, 3]
    other = denoise(
        Recorder(), context, context[0], random(2, 4, 5, 6), LCM, guidance=1,
        renoise=lambda k: random(2, 4, 5, 6, seed=k + (k == 3)),
    )  # fmt: skip
    assert not torch.equal(result, other)
