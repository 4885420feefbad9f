"""Images against diffusers' StableDiffusionPipeline on the same weights, and what they may not depend on."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers.schedulers.scheduling_lcm as scheduling_lcm
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import save_file

import d2r_fast.engine
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.kernels.noise import identity_key, normal

from .diffusers_oracle import assert_same, make_pipeline, pipeline_images, psnr, random
from .minimodels import write_models

DIM = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mini models with a LoRA that changes nothing, so that both samplers can be compared on one UNet."""
    folder = write_models(tmp_path_factory.mktemp("models"))
    (folder / "lcm-lora").mkdir()
    stem = "lora_unet_mid_block_resnets_0_conv1"
    zero = {
        f"{stem}.lora_down.weight": torch.ones(1, 64, 3, 3),
        f"{stem}.lora_up.weight": torch.zeros(64, 1, 1, 1),
    }
    save_file(zero, folder / "lcm-lora/pytorch_lora_weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def generator(models: Path) -> Arc2FaceGenerator:
    return Arc2FaceGenerator.from_pretrained(models, batch_size=3)


@pytest.fixture
def threads() -> Iterator[None]:
    """Gives the number of threads back that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_images_equal_diffusers(
    models: Path, generator: Arc2FaceGenerator, steps: int, guidance: float
) -> None:
    faces, latents = random(3, DIM), random(3, 4, 16, 16, seed=1)
    unconditional = generator.unconditional
    ours = generator(faces, latents=latents, num_inference_steps=steps, guidance_scale=guidance)
    pipeline = make_pipeline(models, DPMSolverMultistepScheduler)
    theirs = pipeline_images(
        pipeline, generator.condition(faces), unconditional, latents, steps=steps, guidance=guidance
    )
    assert_same(ours, theirs)


def test_the_comparison_would_notice(models: Path, generator: Arc2FaceGenerator) -> None:
    """Another guidance, one step more and another face each move images by more than the tolerance."""
    faces, latents = random(3, DIM), random(3, 4, 16, 16, seed=1)
    settings: dict[str, Any] = {"latents": latents, "num_inference_steps": 4}
    base = generator(faces, **settings).astype(int)
    for other in (
        generator(faces, **settings, guidance_scale=3.3),
        generator(faces, **settings | {"num_inference_steps": 5}),
        generator(faces.roll(1, 0), **settings),
        generator(faces, **settings, clip_offset=random(77, 64) * 0.2),
    ):
        assert np.abs(base - other).max() > 3


@pytest.mark.parametrize(("height", "width"), [(120, 80), (72, 136)])
def test_other_sizes_equal_diffusers(
    models: Path, generator: Arc2FaceGenerator, height: int, width: int
) -> None:
    faces, latents = random(2, DIM), random(2, 4, height // 8, width // 8, seed=1)
    ours = generator(faces, latents=latents, num_inference_steps=3)
    assert ours.shape == (2, height, width, 3)
    pipeline = make_pipeline(models, DPMSolverMultistepScheduler)
    context = generator.condition(faces)
    assert_same(
        ours, pipeline_images(pipeline, context, generator.unconditional, latents, steps=3, guidance=3.0)
    )


def test_the_offset_moves_the_conditional_branch_only(models: Path, generator: Arc2FaceGenerator) -> None:
    faces, latents, offset = random(3, DIM), random(3, 4, 16, 16, seed=1), random(77, 64, seed=2)
    ours = generator(faces, latents=latents, num_inference_steps=4, clip_offset=offset.numpy())
    context = generator.condition(faces) + offset
    pipeline = make_pipeline(models, DPMSolverMultistepScheduler)
    assert_same(
        ours, pipeline_images(pipeline, context, generator.unconditional, latents, steps=4, guidance=3.0)
    )


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_lcm_images_equal_diffusers(models: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Arc2FaceGenerator.from_pretrained(models, batch_size=3, sampler="lcm")
    faces, latents = random(3, DIM), random(3, 4, 16, 16, seed=1)
    noise = {k: random(3, 4, 16, 16, seed=100 + k) for k in range(1, steps)}
    ours = generator(
        faces, latents=latents, num_inference_steps=steps, guidance_scale=1.0, noise=lambda k: noise[k]
    )
    queue = iter(noise.values())
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: next(queue))
    pipeline = make_pipeline(models, LCMScheduler)
    theirs = pipeline_images(
        pipeline, generator.condition(faces), generator.unconditional, latents, steps=steps, guidance=1.0
    )
    assert_same(ours, theirs)


@pytest.fixture
def full_models(tmp_path: Path) -> Iterator[Path]:
    """Networks of the released shapes: 4.3 GB, which pytest would keep."""
    yield write_models(tmp_path / "full", size="full")
    shutil.rmtree(tmp_path / "full")


@pytest.mark.slow
def test_full_size_images_equal_diffusers(full_models: Path) -> None:
    """Stable Diffusion 1.5's own shapes at 256 pixels, and a sample in every slot; 3 minutes on 2 cores, 5 GB."""
    faces, latents = random(2, 512), random(2, 4, 32, 32, seed=1)
    generator = Arc2FaceGenerator.from_pretrained(full_models, batch_size=2)
    assert generator.embedding_dim == 512
    assert generator.latent_shape == (4, 64, 64)
    assert generator.image_size == (512, 512)
    ours = generator(faces, latents=latents, num_inference_steps=2)
    swapped = generator(faces.flip(0), latents=latents.flip(0), num_inference_steps=2)
    assert np.array_equal(swapped[::-1], ours)
    context, unconditional = generator.condition(faces), generator.unconditional
    del generator
    pipeline = make_pipeline(full_models, DPMSolverMultistepScheduler)
    assert_same(ours, pipeline_images(pipeline, context, unconditional, latents, steps=2, guidance=3.0))


# What an image may not depend on


def test_bytes_do_not_depend_on_the_slot_or_the_neighbours(generator: Arc2FaceGenerator) -> None:
    faces, latents = random(4, DIM), random(4, 4, 16, 16, seed=1)
    images = generator(faces, latents=latents, num_inference_steps=2)
    order = torch.tensor([2, 3, 0, 1])
    moved = generator(faces[order], latents=latents[order], num_inference_steps=2)
    assert np.array_equal(moved, images[order.numpy()])
    alone = generator(faces[1:2], latents=latents[1:2], num_inference_steps=2)
    assert np.array_equal(alone[0], images[1])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_threads", [1, 2, 3, 6])
def test_no_number_of_threads_lets_the_batch_matter(models: Path, num_threads: int) -> None:
    """Batched, libraries split samples over threads: slots differed at 3, 6 and 8 threads, decoding at 2."""
    torch.set_num_threads(num_threads)
    faces, latents = random(5, DIM), random(5, 4, 16, 16, seed=1)
    order = torch.tensor([3, 0, 4, 1, 2])
    three, five = (Arc2FaceGenerator.from_pretrained(models, batch_size=size) for size in (3, 5))
    images = five(faces, latents=latents, num_inference_steps=2)
    moved = three(faces[order], latents=latents[order], num_inference_steps=2)
    assert np.array_equal(moved, images[order.numpy()])


def test_batch_size_changes_no_more_than_rounding(models: Path) -> None:
    faces, latents = random(8, DIM), random(8, 4, 16, 16, seed=1)
    images = {}
    for size in (1, 3, 8):
        generator = Arc2FaceGenerator.from_pretrained(models, batch_size=size)
        images[size] = generator(faces, latents=latents, num_inference_steps=4)
    for size in (1, 3):
        assert psnr(images[size], images[8]) >= 40
        assert np.abs(images[size].astype(int) - images[8]).max() <= 1


def test_default_noise_is_keyed_by_seed_and_index(generator: Arc2FaceGenerator) -> None:
    faces = random(4, DIM)
    images = generator(faces, num_inference_steps=2, seed=7)
    keys = torch.tensor([[identity_key(7, ""), image, 0, 0] for image in range(4)])
    given = generator(faces, latents=normal(keys, (4, 16, 16)), num_inference_steps=2)
    assert np.array_equal(images, given)
    assert np.array_equal(generator(faces[:2], num_inference_steps=2, seed=7), images[:2])
    assert not np.array_equal(generator(faces, num_inference_steps=2, seed=8), images)


def test_default_lcm_noise_is_keyed_by_step(models: Path) -> None:
    generator = Arc2FaceGenerator.from_pretrained(models, batch_size=2, sampler="lcm")
    faces = random(3, DIM)

    def noise(k: int) -> torch.Tensor:
        keys = torch.tensor([[identity_key(0, ""), image, 0, k] for image in range(3)])
        return normal(keys, generator.latent_shape)

    settings: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 1}
    assert np.array_equal(generator(faces, **settings), generator(faces, **settings, noise=noise))


def test_global_random_state_is_neither_used_nor_changed(generator: Arc2FaceGenerator) -> None:
    faces, before = random(2, DIM), torch.get_rng_state()
    images = generator(faces, num_inference_steps=1)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert np.array_equal(generator(faces, num_inference_steps=1), images)


def test_stages_are_what_the_call_is_made_of(generator: Arc2FaceGenerator) -> None:
    faces, latents = random(4, DIM), random(4, 4, 16, 16, seed=1)
    context = generator.condition(faces)
    clean = generator.denoise(context, lambda k: latents, steps=2, guidance=3.0)
    images, finite = generator.decode(clean)
    assert finite.tolist() == [True] * 4
    assert np.array_equal(images.numpy(), generator(faces, latents=latents, num_inference_steps=2))


# Settings


def test_loading_and_drawing_need_no_network(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    generator = Arc2FaceGenerator.from_pretrained(models, batch_size=1, sampler="lcm")
    assert generator(random(1, DIM), num_inference_steps=1, guidance_scale=1).shape == (1, 128, 128, 3)


def test_what_it_says_of_itself(models: Path, generator: Arc2FaceGenerator) -> None:
    assert generator.device == "cpu"
    assert generator.embedding_dim == 64
    assert generator.latent_shape == (4, 16, 16)
    assert generator.image_size == (128, 128)
    wide = Arc2FaceGenerator.from_pretrained(str(models), height=96, width=160, device="auto")
    assert wide.latent_shape == (4, 12, 20)
    assert wide(random(1, DIM), num_inference_steps=1).shape == (1, 96, 160, 3)


def test_no_faces_no_images(generator: Arc2FaceGenerator) -> None:
    assert generator(np.empty((0, DIM), np.float32)).shape == (0, 128, 128, 3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_close(models: Path, generator: Arc2FaceGenerator, dtype: Any) -> None:
    faces, latents = random(1, DIM), random(1, 4, 8, 8, seed=1)
    half = Arc2FaceGenerator.from_pretrained(models, batch_size=1, dtype=dtype)
    settings: dict[str, Any] = {"latents": latents, "num_inference_steps": 2}
    assert psnr(half(faces, **settings), generator(faces, **settings)) > 25


def test_values_that_are_not_finite_name_their_images(generator: Arc2FaceGenerator) -> None:
    latents = random(5, 4, 16, 16)
    latents[[1, 4], 0, 0, 0] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(RunError, match=r"images \[1, 4\]: values that are not finite"):
        generator(random(5, DIM), latents=latents, num_inference_steps=1)
    context = generator.condition(random(5, DIM))
    decoded = generator.decode(generator.denoise(context, lambda k: latents, steps=1, guidance=1))
    assert decoded.finite.tolist() == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tensorflow"}, r"backend 'tensorflow' is not there: expected one of torch"),
        ({"backend": "tensorrt"}, r"backend tensorrt runs on CUDA alone"),
        ({"device": "cuda:99"}, r"device 'cuda:99' is not there: this machine has cpu"),
        ({"device": "tpu"}, r"device 'tpu' is not there"),
        ({"dtype": "int8"}, r"dtype 'int8': expected one of auto, bfloat16, float16, float32"),
        ({"sampler": "euler"}, r"sampler 'euler': expected"),
        ({"batch_size": 0}, r"batch_size 0: expected at least 1"),
        ({"height": 100, "width": 128}, r"height 100: expected a multiple of 8"),
        ({"height": 128, "width": 0}, r"width 0: expected a multiple of 8"),
    ],
)
def test_refuses_settings_it_cannot_use(models: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Arc2FaceGenerator.from_pretrained(models, **settings)


def test_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder: make one by"):
        Arc2FaceGenerator.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id_embeddings": random(2, 63)}, r"expected \(N, 64\)"),
        ({"latents": random(3, 4, 16, 16)}, r"latents of shape \(3, 4, 16, 16\): expected \(2, 4, h, w\)"),
        ({"latents": random(2, 3, 16, 16)}, r"expected \(2, 4, h, w\)"),
        ({"latents": random(4, 16, 16)}, r"expected \(2, 4, h, w\)"),
        ({"num_inference_steps": 0}, r"steps 0 .* expected 1 to 999"),
        ({"guidance_scale": -1.0}, r"guidance -1: expected 0 or more"),
        ({"guidance_scale": float("nan")}, r"guidance nan"),
        ({"clip_offset": random(76, 64)}, r"clip_offset of shape \(76, 64\): expected \(77, 64\)"),
        ({"clip_offset": torch.full((77, 64), torch.nan)}, r"expected \(77, 64\) finite"),
        ({"seed": -1}, r"seed -1: expected 0 <= seed < 2\*\*63"),
    ],
)
def test_refuses_arguments_it_cannot_use(
    generator: Arc2FaceGenerator, arguments: dict[str, Any], message: str
) -> None:
    given = {"id_embeddings": random(2, DIM)} | arguments
    with pytest.raises(UserError, match=message) as caught:
        generator(given.pop("id_embeddings"), **given)
    assert "\n" not in str(caught.value)


def test_lcm_refuses_guidance_and_more_steps_than_it_has(models: Path) -> None:
    generator = Arc2FaceGenerator.from_pretrained(models, sampler="lcm")
    with pytest.raises(UserError, match=r"guidance 3 with sampler lcm: .* give 1"):
        generator(random(1, DIM), num_inference_steps=4)
    with pytest.raises(UserError, match="steps 51 with sampler lcm: expected 1 to 50"):
        generator(random(1, DIM), num_inference_steps=51, guidance_scale=1)


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("vae", {"latent_channels": 8}, r"tensor \S+ is \(|latent_channels 8"),
        (
            "arc2face",
            {"cross_attention_dim": 32},
            r"cross_attention_dim 32, but the encoder has hidden_size 64",
        ),
        ("arc2face", {"time_cond_proj_dim": 16}, r"time_cond_proj_dim is 16, a UNet that needs more inputs"),
        ("arc2face", {"sample_size": None}, r"sample_size is None"),
    ],
)
def test_refuses_networks_that_do_not_fit_together(
    models: Path, tmp_path: Path, file: str, settings: dict[str, Any], message: str
) -> None:
    for part in ("arc2face", "vae", "encoder", "scheduler"):
        (tmp_path / part).symlink_to(models / part)
    (tmp_path / file).unlink()
    kind = {"arc2face": UNet2DConditionModel, "vae": AutoencoderKL}[file]
    config = kind.load_config(models / file) | settings
    with torch.random.fork_rng(devices=[]):
        kind.from_config(config).save_pretrained(tmp_path / file)
    with pytest.raises(UserError, match=message) as caught:
        Arc2FaceGenerator.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_package_offers_the_generator_and_imports_no_torch() -> None:
    code = (
        "import sys, d2r_fast.engine as engine; assert 'Arc2FaceGenerator' in dir(engine); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert d2r_fast.engine.Arc2FaceGenerator is Arc2FaceGenerator
    with pytest.raises(AttributeError, match="Nonsense"):
        d2r_fast.engine.Nonsense  # noqa: B018
