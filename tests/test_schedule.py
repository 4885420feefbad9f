"""The step table against diffusers' own schedulers, step by step and as whole runs."""

import json
from collections.abc import Iterator
from typing import Any

import diffusers.schedulers.scheduling_lcm as scheduling_lcm
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, LCMScheduler

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.configs import SCHEDULER_CONFIG as SCHEDULER
from d2r_fast.engine.quiet import quiet_libraries
from d2r_fast.engine.schedule import OF_NOISE, OF_X, OF_X0, OF_X0_BEFORE, Schedule, make_schedule, step


def random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fake_unet(x: torch.Tensor, timestep: torch.Tensor, seed: int) -> torch.Tensor:
    """A prediction that depends on x, so that errors would grow, with noise on top."""
    return 0.7 * torch.tanh(x) + 0.5 * random(tuple(x.shape), seed) + 1e-4 * float(timestep)


def run(
    schedule: Schedule, x: torch.Tensor, noise: dict[int, torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """Every latent along the way."""
    x0, trail = torch.zeros_like(x), []
    for index, (timestep, row) in enumerate(zip(schedule.timesteps, schedule.table, strict=True)):
        x, x0 = step(x, fake_unet(x, timestep, index), x0, row, noise.get(index) if noise else None)
        trail.append(x)
    return trail


def reference(scheduler: Any, steps: int, x: torch.Tensor) -> Iterator[torch.Tensor]:
    with quiet_libraries():  # numpy 2's word on how diffusers copies a tensor
        scheduler.set_timesteps(steps)
    for index, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step(fake_unet(x, timestep, index), timestep, x, return_dict=False)[0]
        yield x


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype == torch.float32
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 14, 15, 25, 50, 100])
def test_dpm_latents_equal_diffusers(steps: int) -> None:
    x = random((2, 4, 9, 7), 99)
    theirs = list(reference(DPMSolverMultistepScheduler.from_config(SCHEDULER), steps, x))
    assert_close(run(make_schedule(SCHEDULER, "dpm++2m", steps), x), theirs)


@pytest.mark.parametrize(
    "change", [{"timestep_spacing": "leading"}, {"timestep_spacing": "trailing"}, {"beta_schedule": "linear"}]
)
def test_dpm_honours_what_the_config_says_of_time(change: dict[str, str]) -> None:
    x, config = random((1, 4, 8, 8), 98), SCHEDULER | change
    theirs = list(reference(DPMSolverMultistepScheduler.from_config(config), 12, x))
    ours = make_schedule(config, "dpm++2m", 12)
    assert_close(run(ours, x), theirs)
    assert not torch.equal(ours.table, make_schedule(SCHEDULER, "dpm++2m", 12).table)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 50])
def test_lcm_latents_equal_diffusers_on_the_same_noise(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = random((2, 4, 9, 7), 97)
    noise = {index: random((2, 4, 9, 7), 1000 + index) for index in range(steps - 1)}
    queue = iter(noise.values())
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: next(queue))
    theirs = list(reference(LCMScheduler.from_config(SCHEDULER), steps, x))
    assert next(queue, None) is None, "diffusers drew less noise than expected"
    assert_close(run(make_schedule(SCHEDULER, "lcm", steps), x, noise), theirs)


def test_published_timesteps_of_25_steps() -> None:
    schedule = make_schedule(SCHEDULER, "dpm++2m", 25)
    assert schedule.timesteps.dtype == torch.int64
    assert schedule.timesteps.tolist() == [
        999, 959, 919, 879, 839, 799, 759, 719, 679, 639, 599, 559, 519,
        480, 440, 400, 360, 320, 280, 240, 200, 160, 120, 80, 40,
    ]  # fmt: skip
    sigma = (schedule.table[:, 1] / schedule.table[:, 0]).numpy()
    assert [round(float(s), 4) for s in sigma[[0, 1, 12, 24]]] == [14.6146, 11.5428, 1.7248, 0.1991]


@pytest.mark.parametrize(
    ("steps", "timesteps"), [(1, [999]), (2, [999, 499]), (3, [999, 679, 339]), (4, [999, 759, 499, 259])]
)
def test_published_timesteps_of_lcm(steps: int, timesteps: list[int]) -> None:
    assert make_schedule(SCHEDULER, "lcm", steps).timesteps.tolist() == timesteps


def test_dpm_is_first_order_at_both_ends_and_ends_on_x0() -> None:
    table = make_schedule(SCHEDULER, "dpm++2m", 25).table
    assert table[0, OF_X0_BEFORE] == 0
    assert table[-1, [OF_X, OF_X0, OF_X0_BEFORE, OF_NOISE]].tolist() == [0, 1, 0, 0]
    assert (table[1:-1, OF_X0_BEFORE] < 0).all()
    assert (table[:, OF_NOISE] == 0).all()


def test_dpm_is_exact_for_one_clean_image() -> None:
    """If the UNet names the noise of one fixed image, every step count must land on that image."""
    clean, noise = random((1, 4, 8, 8), 1).double(), random((1, 4, 8, 8), 2).double()
    for steps in (1, 2, 5, 25):
        schedule = make_schedule(SCHEDULER, "dpm++2m", steps)
        alpha, sigma = schedule.table[0, :2].double()
        x, x0 = alpha * clean + sigma * noise, torch.zeros_like(clean)
        for row in schedule.table.double():
            x, x0 = step(x, (x - row[0] * clean) / row[1], x0, row)
        np.testing.assert_allclose(x.numpy(), clean.numpy(), atol=1e-12)


@pytest.mark.parametrize("sampler", ["dpm++2m", "lcm"])
def test_rows_may_differ_within_a_batch(sampler: Any) -> None:
    schedule = make_schedule(SCHEDULER, sampler, 4)
    x, eps, before, noise = (random((4, 4, 5, 3), seed) for seed in range(4))
    together = step(x, eps, before, schedule.table, noise)
    for i in range(4):
        alone = step(x[i : i + 1], eps[i : i + 1], before[i : i + 1], schedule.table[i], noise[i : i + 1])
        assert torch.equal(together[0][i], alone[0][0])
        assert torch.equal(together[1][i], alone[1][0])


def test_which_steps_add_noise() -> None:
    def adding(sampler: Any, steps: int) -> list[bool]:
        return (make_schedule(SCHEDULER, sampler, steps).table[:, OF_NOISE] != 0).tolist()

    assert adding("lcm", 4) == [True, True, True, False]
    assert adding("lcm", 1) == [False]
    assert adding("dpm++2m", 3) == [False, False, False]


@pytest.mark.parametrize(("sampler", "most"), [("dpm++2m", 999), ("lcm", 50)])
def test_the_most_steps_stay_finite_and_more_are_refused(sampler: Any, most: int) -> None:
    schedule = make_schedule(SCHEDULER, sampler, most)
    assert len(schedule) == most == len(schedule.timesteps.unique())
    assert schedule.table.isfinite().all()
    for steps in (0, most + 1):
        with pytest.raises(UserError, match=rf"steps {steps} .* expected 1 to {most}"):
            make_schedule(SCHEDULER, sampler, steps)


@pytest.mark.parametrize(
    ("sampler", "name", "value"),
    [
        ("dpm++2m", "prediction_type", "v_prediction"),
        ("dpm++2m", "use_karras_sigmas", True),
        ("dpm++2m", "use_exponential_sigmas", True),
        ("dpm++2m", "use_beta_sigmas", True),
        ("dpm++2m", "use_lu_lambdas", True),
        ("dpm++2m", "algorithm_type", "sde-dpmsolver++"),
        ("dpm++2m", "solver_order", 3),
        ("dpm++2m", "solver_type", "heun"),
        ("dpm++2m", "final_sigmas_type", "sigma_min"),
        ("dpm++2m", "thresholding", True),
        ("dpm++2m", "rescale_betas_zero_snr", True),
        ("dpm++2m", "lambda_min_clipped", -5.1),
        ("lcm", "prediction_type", "v_prediction"),
        ("lcm", "clip_sample", True),
        ("lcm", "thresholding", True),
    ],
)  # fmt: skip
def test_refuses_other_kinds_of_model_and_solver(sampler: Any, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name} is .*{str(value)[:4]}.*only") as caught:
        make_schedule(SCHEDULER | {name: value}, sampler, 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"beta_schedule": "sigmoid"}, {"beta_start": "small"}])
def test_a_broken_config_is_one_line(change: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"^scheduler config: .+") as caught:
        make_schedule(json.loads(json.dumps(SCHEDULER | change)), "dpm++2m", 4)
    assert "\n" not in str(caught.value)
