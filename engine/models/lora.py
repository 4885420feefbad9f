"""Merging a low-rank adaptation (Hu et al., arXiv 2106.09685) into a network: W += alpha / rank * up @ down.

LCM-LoRA is published under kohya's names: `lora_unet_` and the module's path with underscores for dots, then
`.lora_down.weight` (rank, in, ...), `.lora_up.weight` (out, rank, ...) and `.alpha`. The path is looked up
among the network's modules, which is unambiguous where turning underscores back into dots is not.
"""

from pathlib import Path

import torch
from torch import nn

from d2r_fast.engine.errors import UserError

_PREFIX = "lora_unet_"
_DOWN, _UP, _ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


@torch.no_grad()
def merge_lora(network: nn.Module, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Adds the LoRA to the network's weights, in place and in their dtype.

    Args:
        network: a UNet; only Linear and Conv2d layers can be adapted.
        tensors: the content of a LoRA file; a layer without alpha has alpha = rank.
        file: where it was read, for errors.

    Raises:
        UserError: a tensor that belongs to no layer of this network, lacks its partner, or has another shape.
    """
    layers = {
        _PREFIX + name.replace(".", "_"): module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    grouped: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        layer, _, role = name.partition(".")
        if layer not in layers or role not in (_DOWN, _UP, _ALPHA):
            raise UserError(
                f"{file}: tensor {name} fits no layer of this UNet: expected a LoRA in kohya's names"
            )
        grouped.setdefault(layer, {})[role] = value
    if not grouped:
        raise UserError(f"{file} holds no tensors: expected a LoRA in kohya's names")
    for layer, parts in grouped.items():
        _add(layers[layer].weight, parts, f"{file}: layer {layer}")


def _add(weight: torch.Tensor, parts: dict[str, torch.Tensor], where: str) -> None:
    if _DOWN not in parts or _UP not in parts:
        raise UserError(f"{where} lacks {_UP if _DOWN in parts else _DOWN}: fetch the file again")
    down, up = (parts[role].to(weight) for role in (_DOWN, _UP))
    rank = len(down)
    if down.shape[1:] != weight.shape[1:] or up.flatten(1).shape != (len(weight), rank):
        shapes = f"{tuple(up.shape)} and {tuple(down.shape)}"
        raise UserError(f"{where} is {shapes}, which do not multiply to its weight {tuple(weight.shape)}")
    scale = float(parts.get(_ALPHA, rank)) / rank
    weight += scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
