"""DDIM's steps against both programs' samplers, and what inverts exactly and what does not."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.diffusion.compvis import open_compvis, released_alphas
from d2r_fast.translation.diffusion.folder import read_schedule
from d2r_fast.translation.diffusion.inversion import Noise, generate, invert
from d2r_fast.translation.diffusion.networks import open_networks
from d2r_fast.translation.diffusion.steps import Schedule, Walk, timesteps_of

from .minildm import MINI, STEEP, state_dict, write_checkpoint
from .mininetworks import tensor

GOLDEN = json.loads((Path(__file__).parent / "golden" / "latent_diffusion.json").read_text())
RELEASED = tuple(released_alphas().tolist())
COMPVIS = Schedule(RELEASED, "leading", offset=1, alpha_of_image=RELEASED[0])
CONFIGS: dict[str, dict[str, Any]] = {
    "celebahq": {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    "ddpm": {},
    "as CompVis": {"beta_schedule": "scaled_linear", "steps_offset": 1, "set_alpha_to_one": False},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "set_alpha_to_one": False},
    "trailing": {"timestep_spacing": "trailing"},
    "short": {"num_train_timesteps": 100, "steps_offset": 1},
}


def smooth(x: Tensor, timesteps: Tensor) -> Tensor:
    """A stand-in for a network: depends on both, nonlinearly."""
    return torch.tanh(x * (0.3 + timesteps.view(-1, 1, 1, 1) / 1500) + 0.2)


def relative(given: Tensor, wanted: Tensor) -> float:
    return float((given - wanted).double().norm() / wanted.double().norm())


def samples(*, dtype: torch.dtype = torch.float32) -> Tensor:
    return tensor(2, 4, 5, 5, key=5).to(dtype)


# diffusers leaves its own "trailing" grid where the steps do not divide the timesteps
WALKS = [(name, steps) for name in CONFIGS for steps in (1, 7, 20, 50) if (name, steps) != ("trailing", 7)]


@pytest.mark.parametrize(("name", "num_steps"), WALKS)
def test_both_ways_are_diffusers(tmp_path: Path, name: str, num_steps: int) -> None:
    config = {"clip_sample": False, **CONFIGS[name]}
    down, up = DDIMScheduler(**config), DDIMInverseScheduler(**config)
    down.save_pretrained(tmp_path)
    walk = read_schedule(tmp_path / "scheduler_config.json").walk(num_steps)
    x = wanted = samples()
    up.set_timesteps(num_steps)
    for timestep in up.timesteps:
        eps = smooth(wanted, timesteps_of(wanted, int(timestep)))
        wanted = up.step(eps, int(timestep), wanted).prev_sample
    noised = invert(x, smooth, walk)
    assert relative(noised, wanted) < 1e-5
    wanted = noised
    down.set_timesteps(num_steps)
    for timestep in down.timesteps:
        eps = smooth(wanted, timesteps_of(wanted, int(timestep)))
        wanted = down.step(eps, int(timestep), wanted).prev_sample
    assert relative(generate(noised, smooth, walk), wanted) < 1e-5


@pytest.mark.parametrize("num_steps", [1, 4, 50, 200, 500])
def test_timesteps_are_compvis(num_steps: int) -> None:
    walk = COMPVIS.walk(num_steps)
    assert walk.timesteps == tuple(range(1, 1001, 1000 // num_steps))
    assert walk.alphas == (RELEASED[0], *(RELEASED[t] for t in walk.timesteps))


@pytest.mark.parametrize("num_steps", [30, 333, 501, 1000])
def test_as_many_steps_as_asked_for(num_steps: int) -> None:
    timesteps = COMPVIS.walk(num_steps).timesteps
    assert len(timesteps) == num_steps
    assert timesteps[-1] <= 999
    assert timesteps[0] == (0 if num_steps == 1000 else 1)
    assert len(set(timesteps)) == num_steps


def test_linspace_reaches_both_ends() -> None:
    timesteps = Schedule(RELEASED, "linspace", 0, 1.0).walk(10).timesteps
    assert timesteps == (0, 111, 222, 333, 444, 555, 666, 777, 888, 999)


def test_more_steps_than_timesteps() -> None:
    with pytest.raises(
        UserError, match=r"steps 1001: the model was trained on 1000 timesteps: give at most 1000"
    ):
        COMPVIS.walk(1001)


@pytest.mark.parametrize("name", ["mini", "steep"])
def test_samples_are_compvis(tmp_path: Path, name: str) -> None:
    """Golden numbers of CompVis' own DDIMSampler (eta 0, 8 steps) and UNet with the same weights and noise."""
    golden, size = GOLDEN[name], MINI if name == "mini" else STEEP
    model = open_compvis(write_checkpoint(tmp_path / "m.ckpt", state_dict(size)))
    x = tensor(2, size.channels, golden["side"], golden["side"], key=77) * 1.7
    network = open_networks(model, side=golden["pixels"])[1].module
    with torch.inference_mode():
        drawn = generate(x, network, model.schedule.walk(8)).double().flatten(1)
    wanted = torch.tensor(golden["sample 8"]["first"]).double()
    norms = torch.tensor(golden["sample 8"]["norms"]).double()
    torch.testing.assert_close(drawn.norm(dim=1), norms, rtol=1e-5, atol=0)
    torch.testing.assert_close(drawn[:, :6], wanted, rtol=0, atol=1e-5 * float(norms.max()))


def blind(x: Tensor, timesteps: Tensor) -> Tensor:
    """Noise that depends on the timestep alone, another in each element."""
    place = torch.arange(x[0].numel(), dtype=x.dtype).view(1, *x.shape[1:])
    return torch.sin(place + timesteps.view(-1, 1, 1, 1) / 100).expand_as(x)


def half_still(walk: Walk) -> Noise:
    """Linear noise for which every step up and its step down see the same numbers.

    A step multiplies by r + s c where the noise is c x. With c = (1 - r) / s that is 1: the first half of the channels
    never moves. The second half's noise is a mixture of the first half's values, other at each timestep, so it moves,
    by the same amount up and down.
    """
    mixing = tensor(2, 2, key=6).double()
    still = {}
    for timestep, leave, enter in walk.up():
        r = (enter / leave) ** 0.5
        s = (1 - enter) ** 0.5 - r * (1 - leave) ** 0.5
        still[timestep] = (1 - r) / s

    def noise(x: Tensor, timesteps: Tensor) -> Tensor:
        t = int(timesteps[0])
        first = x[:, :2]
        mixed = torch.einsum("oc,bchw->bohw", (mixing * (1 + t / 500)).to(x.dtype), first)
        return torch.cat((still[t] * first, mixed), dim=1)

    return noise


@pytest.mark.parametrize("toy", ["blind", "half still"])
@pytest.mark.parametrize("num_steps", [2, 10, 50])
def test_toys_come_back_exactly(toy: str, num_steps: int) -> None:
    walk = COMPVIS.walk(num_steps)
    noise = blind if toy == "blind" else half_still(walk)
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 3e-4)):
        x = samples(dtype=dtype)
        there = invert(x, noise, walk)
        assert relative(there, x) > 0.05  # it went somewhere
        assert relative(generate(there, noise, walk), x) < limit


def test_a_linear_network_comes_back_by_its_closed_form() -> None:
    """Noise 0.4 x: every step up times r + s c, down times (1 - s c) / r, so what is lost is known in advance."""
    errors = []
    for num_steps in (10, 20, 40, 80, 160):
        walk, product, x = COMPVIS.walk(num_steps), 1.0, samples(dtype=torch.float64)
        for _, leave, enter in walk.up():
            r = (enter / leave) ** 0.5
            s = (1 - enter) ** 0.5 - r * (1 - leave) ** 0.5
            product *= (r + 0.4 * s) * (1 - 0.4 * s) / r
        back = generate(invert(x, lambda y, _: 0.4 * y, walk), lambda y, _: 0.4 * y, walk)
        torch.testing.assert_close(back, x * product, rtol=1e-12, atol=0)
        errors.append(abs(product - 1))
    assert all(later < 0.65 * earlier for earlier, later in pairwise(errors)), errors


def mixture_noise(centres: Tensor, *, spread: float) -> Noise:
    """What a network learns of data that is a mixture of Gaussians, had it learnt it perfectly: (x - sqrt(a) E[x0|x])
    / sqrt(1 - a), in closed form."""
    table = torch.tensor(RELEASED, dtype=torch.float64)

    def noise(x: Tensor, timesteps: Tensor) -> Tensor:
        a = table[timesteps].view(-1, 1, 1, 1)
        variance = a * spread**2 + 1 - a
        away = x[:, None] - a.sqrt()[:, None] * centres
        weights = (-away.square().flatten(2).sum(-1) / (2 * variance.view(-1, 1))).softmax(1)
        means = centres + (a.sqrt() * spread**2 / variance)[:, None] * away
        mean = torch.einsum("bk,bkchw->bchw", weights, means)
        return (x - a.sqrt() * mean) / (1 - a).sqrt()

    return noise


def test_a_perfect_model_comes_back_better_with_more_steps() -> None:
    centres = tensor(12, 4, 5, 5, key=31).double()
    noise, x = mixture_noise(centres, spread=0.3), centres[:3] + 0.3 * tensor(3, 4, 5, 5, key=8).double()
    for num_steps in (5, 10, 50, 200, 500):
        walk = COMPVIS.walk(num_steps)
        error = relative(generate(invert(x, noise, walk), noise, walk), x)
        assert error < 2.3 / num_steps
        assert num_steps < 50 or error > 2 / num_steps  # first order, no better


def test_a_real_network_comes_back_better_with_more_steps(tmp_path: Path) -> None:
    """On the first 300 timesteps: at the last ones an untrained network, which does not see noise as noise, is far
    from where steps are small."""
    model = open_compvis(write_checkpoint(tmp_path / "m.ckpt", state_dict()))
    network = open_networks(model, side=32)[1].module
    x, early = tensor(1, 3, 16, 16, key=9), Schedule(RELEASED[:300], "leading", 1, RELEASED[0])
    with torch.inference_mode():
        for num_steps in (5, 20, 60):
            walk = early.walk(num_steps)
            assert relative(generate(invert(x, network, walk), network, walk), x) < 0.95 / num_steps


def test_rows_do_not_touch_and_nothing_is_drawn() -> None:
    walk, x = COMPVIS.walk(20), samples()
    state = torch.get_rng_state()
    together = generate(invert(x, smooth, walk), smooth, walk)
    alone = [generate(invert(row[None], smooth, walk), smooth, walk) for row in x]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(state, torch.get_rng_state())
