"""Model folders of random networks, written by diffusers and transformers themselves.

So our loader meets files that are not ours. Only the parts that sampling needs, in less than a second.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging

from d2r_fast.engine.models.configs import CONFIGS, SCHEDULER_CONFIG, Size

LORA = "lcm-lora/pytorch_lora_weights.safetensors"


TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip


def write_models(folder: Path, *, size: Size = "mini", seed: int = 0) -> Path:
    """Writes arc2face, vae, encoder and scheduler into the folder and returns it.

    The global generator is left as it was. The UNet's last layer is enlarged: at its default start it
    predicts next to nothing, and a sampler that ignored it would pass.
    """
    configs = CONFIGS[size]
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(configs.unet)
        unet.conv_out.weight *= 3
        unet.save_pretrained(folder / "arc2face")
        AutoencoderKL.from_config(configs.vae).save_pretrained(folder / "vae")
        CLIPTextModel(CLIPTextConfig.from_dict(configs.encoder)).save_pretrained(folder / "encoder")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER_CONFIG))
    return folder


def kohya_lora(models: Path, *, rank: int = 4, alpha: float | None = 2.0) -> dict[str, torch.Tensor]:
    """A random LoRA of the layers that LCM-LoRA adapts, under kohya's names."""
    unet = UNet2DConditionModel.from_pretrained(models / "arc2face")
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, module in unet.named_modules():
        if name.endswith(TARGETS):
            outputs, *inputs = module.weight.shape
            stem = "lora_unet_" + name.replace(".", "_")
            tensors[f"{stem}.lora_down.weight"] = torch.randn(rank, *inputs, generator=generator) * 0.1
            ones = (1,) * (len(inputs) - 1)
            tensors[f"{stem}.lora_up.weight"] = torch.randn(outputs, rank, *ones, generator=generator) * 0.1
            if alpha is not None:
                tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    return tensors


def put_lora(models: Path, tensors: dict[str, torch.Tensor]) -> None:
    (models / LORA).parent.mkdir()
    save_file(tensors, models / LORA)
