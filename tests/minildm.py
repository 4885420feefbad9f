"""A small latent-diffusion model with weights in closed form, as CompVis' checkpoint and as a diffusers folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel, VQModel
from torch import Tensor

from d2r_fast.translation.diffusion.compvis import AVERAGED, AVERAGES, FIRST_STAGE, UNET
from d2r_fast.translation.diffusion.random_weights import (
    SIZES,
    LdmSize,
    schedule_buffers,
    unet_shapes,
    vq_shapes,
)

from .mininetworks import tensor

MINI = SIZES["mini"]
STEEP = LdmSize((32, 64, 96), 2, frozenset({1, 2}), (32, 64, 64), 2, 4, 50)
"""Widths, depths, resolutions and channels that all differ, so that none can stand for another."""


def fill(shapes: Iterable[tuple[str, tuple[int, ...]]], *, key: int = 0) -> dict[str, Tensor]:
    """Name -> values as if trained: matrices keep their input's variance."""
    return {
        name: _values(name, tensor(*shape, key=1000 * key + place))
        for place, (name, shape) in enumerate(sorted(shapes))
    }


def _values(name: str, u: Tensor) -> Tensor:
    if name.endswith("embedding.weight"):
        return u
    if u.ndim > 1:
        return u * (3 / u[0].numel()) ** 0.5
    return 0.75 + 0.25 * u if name.endswith("weight") else 0.1 * u


def state_dict(size: LdmSize = MINI) -> dict[str, Tensor]:
    """The last step's UNet is other than its averages, which are `fill(unet_shapes(size))`."""
    last, averages = fill(unet_shapes(size), key=1), fill(unet_shapes(size))
    table: dict[str, Tensor] = schedule_buffers()
    table |= {UNET + name: value for name, value in last.items()}
    table |= {AVERAGES + "decay": torch.tensor(0.9999), AVERAGES + "num_updates": torch.tensor(1)}
    table |= {AVERAGES + (AVERAGED + name).replace(".", ""): value for name, value in averages.items()}
    return table | {FIRST_STAGE + name: value for name, value in fill(vq_shapes(size)).items()}


def write_checkpoint(path: Path, table: dict[str, Tensor], **beside: Any) -> Path:
    """As Lightning does."""
    torch.save({"epoch": 0, "state_dict": table, **beside}, path)
    return path


def write_folder(folder: Path, *, first_stage: bool = True, scheduler: dict[str, Any] | None = None) -> Path:
    """An untrained model as diffusers saves it: like CompVis/ldm-celebahq-256, or of pixels like google/ddpm-*."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=16, block_out_channels=(32, 32), layers_per_block=1, attention_head_dim=32,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        unet.save_pretrained(folder / "unet" if first_stage else folder)
        if first_stage:
            vq = VQModel(
                block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=16, scaling_factor=0.5,
            )  # fmt: skip
            vq.quantize.embedding.weight.data.uniform_(-1, 1)
            vq.save_pretrained(folder / "vqvae")
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195} | (scheduler or {})
    DDIMScheduler(**config).save_pretrained(folder / "scheduler" if first_stage else folder)
    return folder
