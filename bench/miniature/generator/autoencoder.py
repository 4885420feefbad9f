"""The miniature's VAE: pictures to a sixteenth of the numbers and back.

Absolute differences of pixels and of their gradients at three scales, and a little of Kullback and Leibler's. No
discriminator: its decoder is soft where there is noise, and that is part of what the miniature shows.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from d2r_fast.bench.miniature.generator.loop import run_steps
from d2r_fast.bench.miniature.generator.pictures import Pixels
from d2r_fast.bench.miniature.generator.recipe import MiniatureRecipe
from d2r_fast.translation.training.seeds import torch_draws

KL_WEIGHT = 1e-5
NUM_SCALES = 3
ENCODED_AT_ONCE = 32


def train_autoencoder(recipe: MiniatureRecipe, pictures: Pixels, folder: Path, *, device: str = "cpu") -> Any:
    """The VAE, trained on `device`, in evaluation mode on the CPU; its config knows the spread of its latents."""
    torch.manual_seed(recipe.seed)
    vae: Any = AutoencoderKL.from_config(recipe.vae)  # type: ignore[no-untyped-call]
    vae.to(device)

    def step(number: int) -> dict[str, Tensor]:
        draws = torch_draws(recipe.seed, f"vae, step {number}")
        rows = torch.randint(len(pictures), (recipe.vae_batch_size,), generator=draws)
        images = as_images(pictures, rows).to(device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draws).to(device)
        drawn = vae.decode(posterior.mean + posterior.std * noise).sample
        difference = compare(drawn, images)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": difference + KL_WEIGHT * kl, "difference": difference, "kl": kl}

    about = {"kind": "miniature vae", "recipe": recipe.model_dump(mode="json"), "num_pictures": len(pictures)}
    run_steps(
        folder, vae, step, about=about, num_steps=recipe.vae_steps, learning_rate=recipe.vae_learning_rate,
        average=recipe.average,
    )  # fmt: skip
    vae.cpu()
    vae.register_to_config(scaling_factor=1 / float(encode(vae, pictures[:1024]).std()))
    return vae


def compare(drawn: Tensor, images: Tensor) -> Tensor:
    """Mean absolute difference of pixels and gradients, over scales; both (N, 3, H, W)."""
    total = drawn.new_zeros(())
    for _ in range(NUM_SCALES):
        apart = drawn - images
        total = total + apart.abs().mean() + apart.diff(dim=2).abs().mean() + apart.diff(dim=3).abs().mean()
        drawn, images = F.avg_pool2d(drawn, 2), F.avg_pool2d(images, 2)
    return total / NUM_SCALES


def as_images(pictures: Pixels, rows: Tensor) -> Tensor:
    """Rows of uint8 (N, H, W, 3) as float32 (n, 3, H, W) in -1 to 1."""
    return torch.from_numpy(pictures[rows.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def encode(vae: Any, pictures: Pixels) -> Tensor:
    """Latent means (N, 4, H / 8, W / 8) of pictures, unscaled."""
    parts = torch.split(torch.arange(len(pictures)), ENCODED_AT_ONCE)
    return torch.cat([vae.encode(as_images(pictures, rows)).latent_dist.mean for rows in parts])
