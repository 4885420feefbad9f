"""The tensors that a network's config asks of its weight file, without allocating one.

diffusers and transformers build the network on PyTorch's meta device, which knows shapes and holds nothing.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from d2r_fast.engine.models.layout import ENCODER, UNET, VAE, Part

PREFIX = {ENCODER: "text_model."}
"""What the published files put before transformers' own names."""

# Older diffusers named the VAE's attention weights otherwise, and Stable Diffusion 1.5's file still does.
OLD_VAE_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def skeleton(part: Part, config: dict[str, Any]) -> nn.Module:
    """The network of this config on the meta device: names and shapes, no values.

    Raises whatever its class raises for a config it cannot use (mostly ValueError, KeyError, TypeError).
    """
    with torch.device("meta"):
        network: nn.Module
        if part is UNET:
            network = UNet2DConditionModel.from_config(config)  # type: ignore[no-untyped-call]
        elif part is VAE:
            network = AutoencoderKL.from_config(config)  # type: ignore[no-untyped-call]
        else:
            assert part is ENCODER, part
            network = CLIPTextModel(CLIPTextConfig.from_dict(config))
    return network


def tensor_shapes(part: Part, network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name in the weight file -> shape, for every tensor that the network is loaded from."""
    prefix = PREFIX.get(part, "")
    return {prefix + name: tuple(value.shape) for name, value in network.state_dict().items()}


def current_name(part: Part, name: str) -> str:
    """A weight file's tensor name as today's libraries spell it."""
    if part is VAE and ".attentions." in name:
        for old, new in OLD_VAE_NAMES.items():
            name = name.replace(old, new)
    return name
