"""A latent-diffusion checkpoint of CompVis (arXiv 2112.10752): Lightning's file of the whole training.

model.diffusion_model.*    the UNet as the last step left it
model_ema.*                its running averages, names without dots; what CompVis' own sampler draws with, so that
                           these are taken where they are there
first_stage_model.*        the VQ autoencoder, trained before and frozen
betas, alphas_cumprod ...  the schedule; a file without takes that of the released models: 1,000 timesteps, 0.0015
                           to 0.0195, linear in the square root ("linear" there, "scaled_linear" in diffusers)
scale_factor               of the latents, where they were scaled; 1 in the models of faces
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.checkpoint import read_weights
from d2r_fast.translation.diffusion.compvis_unet import convert_unet, unet_config
from d2r_fast.translation.diffusion.compvis_vq import convert_vq, vq_config
from d2r_fast.translation.diffusion.model import DiffusionModel, Part, check_channels
from d2r_fast.translation.diffusion.steps import Schedule

UNET, AVERAGES, FIRST_STAGE = "model.diffusion_model.", "model_ema.", "first_stage_model."
AVERAGED = "diffusion_model."
"""What the averages' names begin with before their dots are taken out."""
COUNTERS = ("decay", "num_updates")
"""Of the averages."""
BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip
SIDE = 256
"""Pixels; what every unconditional model that CompVis released was trained on. No tensor says so."""
_BETAS, _TIMESTEPS = (0.0015, 0.0195), 1000
_BESIDE = (*BUFFERS, "scale_factor", "logvar", "lvlb_weights")
_LOSS = f"{FIRST_STAGE}loss."


def open_compvis(path: Path) -> DiffusionModel:
    """The model of a checkpoint, by names and shapes.

    The file is read once. Both networks' tensors stay in memory as long as the model does (ffhq256: 1.3 GB), and each
    network is given copies.

    Raises:
        UserError: no such file, a damaged one, another network, a conditional one, or one without a first stage.
    """
    tensors, name = _read(path), str(path)
    unet, first_stage = unet_tensors(tensors, name=name), _below(tensors, FIRST_STAGE)
    config, vq = unet_config(unet, name=name), vq_config(first_stage, name=name)
    parts = {
        "unet": Part("UNet2DModel", config, {path.name: path}, lambda: convert_unet(_copies(unet), config)),
        "first_stage": Part("VQModel", vq, {path.name: path}, lambda: convert_vq(_copies(first_stage), vq)),
    }
    check_channels(parts["unet"], parts["first_stage"], name=name)
    scale = float(tensors.get("scale_factor", torch.ones(())))
    return DiffusionModel(**parts, scale=scale, schedule=_schedule(tensors, name=name), side=SIDE)


def unet_tensors(tensors: Mapping[str, Tensor], *, name: str) -> dict[str, Tensor]:
    """The UNet's tensors by CompVis' names without prefix: the averages, where a checkpoint has them.

    Raises:
        UserError: averages of some tensors alone.
    """
    last = _below(tensors, UNET)
    averages = _below(tensors, AVERAGES)
    for counter in COUNTERS:
        averages.pop(counter, None)
    if not averages:
        return last
    keys = {key: (AVERAGED + key).replace(".", "") for key in last}
    missing = [key for key, average in keys.items() if average not in averages]
    if missing or len(averages) > len(keys):
        what = (
            f"lacks those of {len(missing)}, {missing[0]} first"
            if missing
            else "has more than there are tensors"
        )
        raise UserError(f"{name} has running averages (model_ema.*) and {what}: give it as it was released")
    return {key: averages[average] for key, average in keys.items()}


def _read(path: Path) -> dict[str, Tensor]:
    tensors = read_weights(path, method="ddim-inversion").tensors
    if any(key.startswith("cond_stage_model.") for key in tensors):
        raise UserError(
            f"{path} is a conditional model (cond_stage_model.*): ddim-inversion takes unconditional ones, as CompVis' "
            "ffhq256"
        )
    prefixes = (UNET, AVERAGES, FIRST_STAGE)
    extra = [key for key in tensors if not key.startswith(prefixes) and key not in _BESIDE]
    if extra:
        raise UserError(
            f"{path} has {len(extra)} tensors that no unconditional latent-diffusion model has, {extra[0]} first: give "
            "the model.ckpt of a release"
        )
    return tensors


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix) and not key.startswith(_LOSS)
    }


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's own, which it may change."""
    return {name: value.clone() for name, value in tensors.items()}


def _schedule(tensors: Mapping[str, Tensor], *, name: str) -> Schedule:
    alphas = tensors.get("alphas_cumprod", released_alphas()).double()
    if alphas.ndim != 1 or not bool(((alphas > 0) & (alphas < 1)).all() and (alphas.diff() < 0).all()):
        raise UserError(
            f"{name}: alphas_cumprod does not fall from below 1 to above 0: give it as it was released"
        )
    values = tuple(alphas.tolist())
    return Schedule(values, "leading", offset=1, alpha_of_image=values[0])


def released_alphas() -> Tensor:
    """Cumulative alphas of CompVis' released models: (1000,) float64."""
    first, last = (beta**0.5 for beta in _BETAS)
    return (1 - torch.linspace(first, last, _TIMESTEPS, dtype=torch.float64) ** 2).cumprod(0)
