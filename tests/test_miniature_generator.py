"""Training of the miniature's generator: its schedule, its loss, and runs that are stopped half-way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn

from d2r_fast.bench.miniature.generator import loop
from d2r_fast.bench.miniature.generator.autoencoder import as_images, compare, train_autoencoder
from d2r_fast.bench.miniature.generator.denoiser import Denoiser, kept_signal, train_denoiser
from d2r_fast.bench.miniature.generator.loop import run_steps, share
from d2r_fast.bench.miniature.generator.recipe import MiniatureRecipe
from d2r_fast.engine.condition import ID_POSITION, Conditioner
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.configs import SCHEDULER_CONFIG

TINY = MiniatureRecipe(
    side=64, unet_channels=(16, 16, 16, 16), context=16, encoder_layers=1, embedding_dim=16
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vae_channels": (4, 8, 8, 8)}, "vae_channels = 4: input should be a multiple of 8"),
        ({"vae_channels": (8, 8, 8, 0)}, "vae_channels = 0: input should be greater than 0"),
        ({"unet_channels": (16, 24, 32, 32)}, "unet_channels = 24: input should be a multiple of 16"),
        ({"context": 18, "embedding_dim": 16}, "context = 18: input should be a multiple of 4"),
        ({"context": 64}, "embedding_dim 128 with context 64: an embedding takes a token's place"),
    ],
)
def test_sizes_that_no_network_can_have_are_said_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MiniatureRecipe(**settings)


def test_every_network_can_be_built_of_the_sizes_that_are_allowed() -> None:
    recipe = MiniatureRecipe(
        side=64, vae_channels=(8, 24, 16, 40), unet_channels=(16, 48, 32, 80), context=20, embedding_dim=19,
        encoder_layers=1,
    )  # fmt: skip
    vae = AutoencoderKL.from_config(recipe.vae)  # type: ignore[no-untyped-call]
    denoiser, latents = Denoiser(recipe), torch.zeros(1, 4, 8, 8)
    with torch.inference_mode():
        contexts = denoiser.contexts(torch.eye(1, 19), torch.tensor([False]))
        assert denoiser(latents, torch.tensor([5]), contexts).shape == latents.shape
        assert vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean.shape == latents.shape
        assert vae.decode(latents).sample.shape == (1, 3, 64, 64)


def test_the_schedule_is_stable_diffusions() -> None:
    wanted = DDIMScheduler.from_config(SCHEDULER_CONFIG).alphas_cumprod
    torch.testing.assert_close(kept_signal(), wanted, rtol=1e-5, atol=1e-7)


def test_contexts_are_those_that_the_engine_gives_the_unet() -> None:
    denoiser = Denoiser(TINY).eval()
    faces = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)))
    engine = Conditioner(denoiser.encoder)
    with torch.inference_mode():
        found = denoiser.contexts(faces, torch.tensor([False, True, False]))
    torch.testing.assert_close(found[[0, 2]], engine(faces)[[0, 2]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], engine.unconditional(), rtol=1e-5, atol=1e-5)


def test_it_begins_with_contexts_full_of_the_face_and_a_unet_that_does_not_hear_them() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(MiniatureRecipe(side=64, unet_channels=(16, 16, 16, 16))).eval()
    draws = torch.Generator().manual_seed(1)
    faces = torch.nn.functional.normalize(torch.randn(32, 128, generator=draws))
    noised, times = torch.randn(32, 4, 8, 8, generator=draws), torch.full((32,), 500)
    with torch.inference_mode():
        contexts = denoiser.contexts(faces, torch.zeros(32, dtype=torch.bool))
        one, other = denoiser(noised, times, contexts), denoiser(noised, times, contexts.roll(1, 0))
    share = contexts.var(0).mean(1) / contexts.square().mean((0, 2))
    assert (share[:ID_POSITION] < 1e-9).all()
    assert (share[ID_POSITION:] > 0.25).all(), "random ones have a hundredth of it"
    assert torch.equal(one, other)


def test_parameters_learn_at_their_own_pace(tmp_path: Path) -> None:
    slow, quick = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    network = nn.ModuleDict({"slow": slow, "quick": quick})
    with torch.no_grad():
        slow.weight.zero_()
        quick.weight.zero_()

    def step(number: int) -> Mapping[str, Tensor]:
        return {"loss": slow.weight.sum() + quick.weight.sum()}

    run_steps(
        tmp_path / "run", network, step, about={}, num_steps=10, learning_rate=0.1, average=1e-9,
        pace=lambda name: 0.5 if name.startswith("slow") else 1.0,
    )  # fmt: skip
    assert quick.weight.item() < -0.1
    assert slow.weight.item() == pytest.approx(0.5 * quick.weight.item(), rel=1e-5)


def test_equal_pictures_do_not_differ() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    images = as_images(pictures, torch.tensor([1]))
    assert images.shape == (1, 3, 16, 16)
    assert images[0, 2, 5, 7] == pytest.approx(pictures[1, 5, 7, 2] / 127.5 - 1)
    assert compare(images, images) == 0
    shifted = compare(images + 0.3, images)
    assert shifted == pytest.approx(0.3, rel=1e-5), "a constant has no gradient"


def test_the_learning_rate_rises_and_falls() -> None:
    assert share(0) == 0
    assert share(loop.WARM_UP) == pytest.approx(1)
    assert share(0.51) == pytest.approx(0.5)
    assert share(1) == pytest.approx(0, abs=1e-6)


@pytest.mark.gpu
def test_a_gpu_learns_what_a_cpu_does(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: this test compares it with the CPU")
    draws = np.random.default_rng(0)
    latents = torch.from_numpy(draws.standard_normal((8, 4, 8, 8), np.float32))
    embeddings = draws.standard_normal((8, 16), np.float32) / 4
    pictures = draws.integers(0, 256, (8, 64, 64, 3), np.uint8)
    recipe = TINY.model_copy(
        update={
            "steps": 3,
            "batch_size": 4,
            "vae_steps": 3,
            "vae_batch_size": 2,
            "vae_channels": (8, 8, 8, 8),
        }
    )
    learnt = [
        (
            train_denoiser(recipe, latents, embeddings, tmp_path / f"denoiser-{device}", device=device),
            train_autoencoder(recipe, pictures, tmp_path / f"vae-{device}", device=device),
        )
        for device in ("cpu", "cuda")
    ]
    for one, other in zip(*learnt, strict=True):
        for name, value in one.state_dict().items():
            # Adam's first steps are as long where a gradient is nearly nothing, whose sign roundings decide.
            assert (value - other.state_dict()[name]).abs().mean() < 2e-4, name


class Stopped(Exception):
    """Somebody stops the run."""


def fit(folder: Path, *, stop_at: int | None = None, num_steps: int = 30) -> Tensor:
    """Weights of a line that is fitted to noisy points."""
    torch.manual_seed(0)
    network = nn.Linear(3, 1)

    def step(number: int) -> Mapping[str, Tensor]:
        if number == stop_at:
            raise Stopped
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        return {"loss": (network(x) - x.sum(1, keepdim=True)).square().mean()}

    about = {"kind": "line", "num_steps": num_steps}
    run_steps(folder, network, step, about=about, num_steps=num_steps, learning_rate=0.1, average=0.5)
    return network.weight.detach()


def test_a_run_that_was_stopped_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 10)
    whole = fit(tmp_path / "whole")
    assert (whole - 1).abs().max() < 0.2, "it learnt"
    with pytest.raises(Stopped):
        fit(tmp_path / "stopped", stop_at=17)
    assert torch.equal(fit(tmp_path / "stopped"), whole)
    assert torch.equal(fit(tmp_path / "whole"), whole), "nothing is left to do"
    with pytest.raises(UserError, match="num_steps"):
        fit(tmp_path / "whole", num_steps=40)
