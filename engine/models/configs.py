"""The configurations of the networks, at the released sizes and in miniature.

Full: Stable Diffusion 1.5's UNet and VAE, CLIP ViT-L/14's text tower, IResNet-100, SCRFD-10G, LoRA rank 64.
Mini: the same classes, every kind of layer present, a thousandth of the arithmetic.
"""

from dataclasses import dataclass
from typing import Any, Literal

from d2r_fast.export.detector import SCRFD_10G, SCRFD_MINI, Shape
from d2r_fast.recognition.iresnet import DEPTHS, WIDTHS

Size = Literal["mini", "full"]
VOCABULARY = 49408
"""CLIP's words."""
DIFFUSERS_VERSION = "0.29.2"  # the version that Arc2Face pins

# Exactly the keys of Stable Diffusion 1.5's file. It has neither timestep_spacing nor prediction_type, and
# what a sampler then assumes decides its timesteps.
SCHEDULER_CONFIG: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


@dataclass(frozen=True, slots=True)
class Recogniser:
    """IResNet's blocks and channels per stage, and its embedding's width."""

    num_blocks: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    embedding_dim: int


@dataclass(frozen=True, slots=True)
class Configs:
    """One size of every network; dicts are the config.json files."""

    unet: dict[str, Any]
    encoder: dict[str, Any]
    vae: dict[str, Any]
    recogniser: Recogniser
    detector: Shape
    lora_rank: int


def unet(
    *, sample_size: int, channels: list[int], layers: int, heads: int, context: int, groups: int
) -> dict[str, Any]:
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "act_fn": "silu",
        "attention_head_dim": heads,  # the number of heads: diffusers' name is a legacy
        "block_out_channels": channels,
        "center_input_sample": False,
        "cross_attention_dim": context,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": layers,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": groups,
        "out_channels": 4,
        "sample_size": sample_size,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    }


def vae(*, sample_size: int, channels: list[int], layers: int, groups: int) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS_VERSION,
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "out_channels": 3,
        "sample_size": sample_size,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }


def encoder(*, width: int, layers: int, heads: int, id_embedding_dim: int) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModelWrapper"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": width,
        "id_embedding_dim": id_embedding_dim,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": width,
        "vocab_size": VOCABULARY,
    }


FULL = Configs(
    unet=unet(sample_size=64, channels=[320, 640, 1280, 1280], layers=2, heads=8, context=768, groups=32),
    encoder=encoder(width=768, layers=12, heads=12, id_embedding_dim=512),
    vae=vae(sample_size=512, channels=[128, 256, 512, 512], layers=2, groups=32),
    recogniser=Recogniser(DEPTHS[100], WIDTHS, embedding_dim=512),
    detector=SCRFD_10G,
    lora_rank=64,
)
MINI = Configs(
    unet=unet(sample_size=16, channels=[32, 64, 64, 64], layers=1, heads=4, context=64, groups=16),
    encoder=encoder(width=64, layers=2, heads=4, id_embedding_dim=64),
    vae=vae(sample_size=128, channels=[16, 32, 32, 32], layers=1, groups=16),
    recogniser=Recogniser((1, 1, 1, 1), (8, 16, 32, 32), embedding_dim=64),
    detector=SCRFD_MINI,
    lora_rank=4,
)
CONFIGS: dict[Size, Configs] = {"mini": MINI, "full": FULL}
