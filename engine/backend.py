"""What runs the networks: the backend that a name stands for, and its networks as plain functions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2r_fast.engine.condition import Conditioner
from d2r_fast.engine.config import Sampler
from d2r_fast.engine.scheduler import UNet
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.layout import UNET
from d2r_fast.engine.models.load import (
    config_file,
    load_conditioner,
    load_decoder,
    load_scheduler_config,
    load_unet,
)
from d2r_fast.engine.vae import Decoder


@dataclass(frozen=True, slots=True)
class Networks:
    """Everything of a model folder that sampling runs.

    Attributes:
        conditioner: face embeddings to context.
        unet: noise prediction, float32 in and out whatever it computes in.
        decoder: VAE latents to pixels, likewise.
        latent_shape: (4, h, w) of the images that the UNet was trained on.
        pixels_per_latent: image side / latent side.
        scaling_factor: of the VAE.
        scheduler_config: the folder's scheduler_config.json.
    """

    conditioner: Conditioner
    unet: UNet
    decoder: Decoder
    latent_shape: tuple[int, int, int]
    pixels_per_latent: int
    scaling_factor: float
    scheduler_config: dict[str, Any]


def open_networks(
    backend: str, models: Path, *, device: str, dtype: torch.dtype, batch_size: int, sampler: Sampler
) -> Networks:
    """Loads a model folder into the named backend.

    Raises:
        UserError: no such backend, no such folder, or networks that do not fit together.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r} is not there: expected one of {', '.join(BACKENDS)}")
    if not models.is_dir():
        raise UserError(f"{models} is not a folder: make one by `d2r-fast models pull` or `models init`")
    return BACKENDS[backend](models, device=device, dtype=dtype, batch_size=batch_size, sampler=sampler)


def open_torch(
    models: Path, *, device: str, dtype: torch.dtype, batch_size: int, sampler: Sampler
) -> Networks:
    """The networks as PyTorch runs them, module by module: the reference for every other backend."""
    scheduler_config = load_scheduler_config(models)
    conditioner = load_conditioner(models, device=device, batch_size=batch_size)
    vae = load_decoder(models, device=device, dtype=dtype)
    unet = load_unet(models, device=device, dtype=dtype, lora=sampler == "lcm")
    _check_fit(models, unet.config, vae.config, width=conditioner.width)

    def predict_noise(latents: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        out = unet(latents.to(dtype), timesteps, encoder_hidden_states=context.to(dtype), return_dict=False)
        return out[0].float()  # type: ignore[no-any-return]

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return vae.decode(latents.to(dtype), return_dict=False)[0].float()  # type: ignore[no-any-return]

    sides = unet.config.sample_size
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return Networks(
        conditioner=conditioner, unet=predict_noise, decoder=decode,
        latent_shape=(unet.config.in_channels, height, width),
        pixels_per_latent=2 ** (len(vae.config.block_out_channels) - 1),
        scaling_factor=vae.config.scaling_factor, scheduler_config=scheduler_config,
    )  # fmt: skip


BACKENDS: dict[str, Callable[..., Networks]] = {"torch": open_torch}


def _check_fit(models: Path, unet: Any, vae: Any, *, width: int) -> None:
    """That these three networks make one text-to-image model of Stable Diffusion 1's kind."""
    file = config_file(models, UNET)
    if unet.cross_attention_dim != width:
        raise UserError(
            f"{file}: cross_attention_dim {unet.cross_attention_dim}, but the encoder has hidden_size "
            f"{width}: take both from one release"
        )
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        raise UserError(
            f"{file}: in_channels {unet.in_channels} and out_channels {unet.out_channels}, but the VAE has "
            f"latent_channels {vae.latent_channels}: take both from one release"
        )
    for name in ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim"):
        if unet[name] is not None:
            raise UserError(
                f"{file}: {name} is {unet[name]!r}, a UNet that needs more inputs than Arc2Face has"
            )
    if unet.sample_size is None:
        raise UserError(f"{file}: no sample_size, the side of the latents that the UNet was trained on")
