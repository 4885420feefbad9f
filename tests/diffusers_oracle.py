"""What diffusers draws with the same weights and noise: the oracle of the generator."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray

from d2r_fast.engine.models.load import load_scheduler_config
from d2r_fast.engine.quiet import quiet_libraries


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = ((a.astype(float) - b) ** 2).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def make_pipeline(models: Path, scheduler: Any) -> StableDiffusionPipeline:
    """diffusers' pipeline, from the folder by diffusers' own loaders."""
    with quiet_libraries():
        pipeline = StableDiffusionPipeline(
            unet=UNet2DConditionModel.from_pretrained(models / "arc2face"),
            vae=AutoencoderKL.from_pretrained(models / "vae"),
            scheduler=scheduler.from_config(load_scheduler_config(models)),
            text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_images(
    pipeline: StableDiffusionPipeline,
    context: torch.Tensor,
    unconditional: torch.Tensor,
    latents: torch.Tensor,
    *,
    steps: int,
    guidance: float,
) -> NDArray[np.uint8]:
    with quiet_libraries():
        images = pipeline(
            prompt_embeds=context, negative_prompt_embeds=unconditional.expand_as(context), latents=latents,
            num_inference_steps=steps, guidance_scale=guidance, height=8 * latents.shape[2],
            width=8 * latents.shape[3], output_type="np",
        ).images  # fmt: skip
    return (images * 255).round().astype(np.uint8)


def assert_same(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> None:
    assert ours.dtype == np.uint8
    assert ours.shape == theirs.shape
    assert ours.std() > 20, "images without contrast prove nothing"
    assert int(np.abs(ours.astype(int) - theirs).max()) <= 1
