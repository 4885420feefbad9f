"""Model folders of random networks, written by diffusers and transformers themselves.

So our loader meets files that are not ours. Only the parts that sampling needs, in less than a second.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging

from d2r_fast.engine.models.configs import CONFIGS, SCHEDULER_CONFIG, Size


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
