"""The sampler as a table: one row of numbers per step, and one expression that applies a row.

Both samplers do the same thing at each step with different numbers,

    x0 = (x - sigma eps) / alpha
    x' = a x + b x0 + c x0_before + d noise

so a row (alpha, sigma, a, b, c, d) is all that a step needs to know, and samples at different steps can
share a batch. Timesteps and noise levels are those of diffusers' own schedulers, built from the model
folder's scheduler config as Arc2Face builds them; diffusers is the reference that tests compare with.

    dpm++2m  DPM-Solver++ 2M, midpoint, data prediction (Lu et al., arXiv 2211.01095, algorithm 2). The
             first step has no step before it and the last ends at sigma 0, so both are first order.
    lcm      Latent consistency sampling (Luo et al., arXiv 2310.04378): boundary conditions with
             sigma_data 0.5, fresh noise after every step but the last.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, LCMScheduler

from d2r_fast.engine.config import Sampler
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.quiet import quiet_libraries

ALPHA, SIGMA, OF_X, OF_X0, OF_X0_BEFORE, OF_NOISE = range(6)
"""Columns of a schedule's table."""

ALWAYS = (0.0, 1.0)
"""The interval of steps with guidance that is all of them."""

_SIGMA_DATA = 0.5
_COMMON: dict[str, Any] = {
    "prediction_type": "epsilon",
    "thresholding": False,
    "rescale_betas_zero_snr": False,
}
_DPM = _COMMON | {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "final_sigmas_type": "zero",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "variance_type": None,
    "lambda_min_clipped": -math.inf,
}
_LCM = _COMMON | {"clip_sample": False}


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of one sampler, noisiest first. Initial latents are plain N(0, 1), not scaled.

    Attributes:
        timesteps: (S,) int64, what the UNet is told.
        table: (S, 6) float32, columns ALPHA, SIGMA, OF_X, OF_X0, OF_X0_BEFORE, OF_NOISE.
    """

    timesteps: torch.Tensor
    table: torch.Tensor

    def __len__(self) -> int:
        return len(self.timesteps)


def step(
    x: torch.Tensor,
    eps: torch.Tensor,
    x0_before: torch.Tensor,
    rows: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One sampler step of every sample, each by its own row.

    Args:
        x: (N, C, h, w) float32 latents before the step.
        eps: same shape, the noise that the UNet predicts in x.
        x0_before: same shape, the x0 that the step before returned; any finite values for a first step.
        rows: (N, 6) or (6,) float32, rows of `Schedule.table`.
        noise: same shape, N(0, 1); None where no row of this batch adds noise.

    Returns:
        The latents after the step, and x0, what this step takes the clean latents to be.
    """
    alpha, sigma, a, b, c, d = (column[..., None, None, None] for column in rows.unbind(-1))
    x0 = (x - sigma * eps) / alpha
    after = a * x + b * x0 + c * x0_before
    return (after if noise is None else after + d * noise), x0


def make_schedule(scheduler_config: dict[str, Any], sampler: Sampler, steps: int) -> Schedule:
    """The table of a sampler run of `steps` UNet evaluations.

    Args:
        scheduler_config: the model folder's scheduler/scheduler_config.json.
        sampler: "dpm++2m" or "lcm".
        steps: at least 1; at most 999 (dpm++2m) or the 50 steps that LCM was distilled on.

    Raises:
        UserError: a config that asks for another kind of model or solver, or too many steps for it.
    """
    if sampler == "lcm":
        return _lcm(scheduler_config, steps)
    return _dpm(scheduler_config, steps)


def guided_steps(steps: int, guidance: float, interval: tuple[float, float]) -> tuple[bool, ...]:
    """For each step, whether classifier-free guidance is on: a scale above 1, in an interval of the steps.

    Guidance is harmful at high noise and useless at low noise (Kynkaanniemi et al., arXiv 2404.07724); without
    it a step costs half.

    Args:
        steps: S.
        guidance: the guidance scale.
        interval: (lo, hi), 0 <= lo <= hi <= 1: step k = 0..S-1, noisiest first, is guided where
            lo <= k / S < hi. With 25 steps (0.2, 0.6) is steps 5 to 14.
    """
    low, high = interval
    return tuple(guidance > 1 and low <= step / steps < high for step in range(steps))


def _dpm(scheduler_config: dict[str, Any], steps: int) -> Schedule:
    scheduler = _build(DPMSolverMultistepScheduler, scheduler_config, _DPM)
    most = scheduler.config.num_train_timesteps - 1
    if not 1 <= steps <= most:
        raise UserError(f"steps {steps} with sampler dpm++2m: expected 1 to {most}")
    with quiet_libraries():
        scheduler.set_timesteps(steps)
    # In float64, from the float32 noise levels that diffusers steps with.
    ratio = scheduler.sigmas.double()
    alpha = (1 + ratio**2).rsqrt()
    sigma = ratio * alpha
    log_snr = -ratio.log()
    width = log_snr.diff()
    of_x0 = -alpha[1:] * torch.expm1(-width)
    slope = torch.zeros_like(of_x0)
    slope[1:-1] = 0.5 * of_x0[1:-1] * width[1:-1] / width[:-2]
    none = torch.zeros_like(of_x0)
    columns = (alpha[:-1], sigma[:-1], sigma[1:] / sigma[:-1], of_x0 + slope, -slope, none)
    return Schedule(scheduler.timesteps, torch.stack(columns, dim=1).float())


def _lcm(scheduler_config: dict[str, Any], steps: int) -> Schedule:
    scheduler = _build(LCMScheduler, scheduler_config, _LCM)
    most = scheduler.config.original_inference_steps
    if not 1 <= steps <= most:
        raise UserError(
            f"steps {steps} with sampler lcm: expected 1 to {most}, the steps LCM was distilled on"
        )
    with quiet_libraries():
        scheduler.set_timesteps(steps)
    signal = scheduler.alphas_cumprod[scheduler.timesteps].double()
    scaled = scheduler.timesteps.double() * scheduler.config.timestep_scaling
    of_x = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
    of_x0 = scaled / (scaled**2 + _SIGMA_DATA**2).sqrt()
    # The last step returns the clean latents: signal 1, no noise.
    after = torch.cat((signal[1:], signal.new_ones(1)))
    none = torch.zeros_like(signal)
    of_x, of_x0 = after.sqrt() * of_x, after.sqrt() * of_x0
    columns = (signal.sqrt(), (1 - signal).sqrt(), of_x, of_x0, none, (1 - after).sqrt())
    return Schedule(scheduler.timesteps, torch.stack(columns, dim=1).float())


def _build(kind: Any, scheduler_config: dict[str, Any], required: dict[str, Any]) -> Any:
    """diffusers' scheduler of this config, once it is known to be one that the tables describe."""
    for name, allowed in required.items():
        given = scheduler_config.get(name, allowed)
        if given != allowed:
            raise UserError(
                f"scheduler config: {name} is {given!r}, only {allowed!r} is supported; "
                "give the scheduler_config.json of Stable Diffusion 1.5"
            )
    try:
        with quiet_libraries():
            return kind.from_config(scheduler_config)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"scheduler config: {str(error).splitlines()[0]}") from error
