"""CompVis' latent-diffusion UNet as diffusers' UNet2DModel: the same network under other names.

Proven by equal outputs at full size. What the two call differently, beside names:
- `qkv` is one convolution whose rows go head by head, each head's queries, keys and values together (its "legacy"
  order); diffusers has three matrices.
- attention heads are 32 channels wide in every unconditional face model of CompVis; no shape says so.
- group norms have 32 groups and an epsilon of 1e-5, timesteps are cosines, then sines: diffusers' defaults.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from d2r_fast.engine.errors import UserError

HEAD_CHANNELS = 32
_FIXED = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
_RESAMPLING = {"op": "downsamplers.0.conv", "conv": "upsamplers.0.conv"}
_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.\d+\.(.+)|(middle)_block\.(\d+)\.(.+)")
_QUERIES = ("to_q", "to_k", "to_v")


def unet_config(tensors: Mapping[str, Tensor], *, name: str) -> dict[str, Any]:
    """UNet2DModel's settings for a CompVis UNet, from its names and shapes.

    Args:
        tensors: by CompVis' names, without a prefix.
        name: of the file, for messages.

    Raises:
        UserError: a conditional UNet (which is said), or none.
    """
    _refuse_conditional(tensors, name=name)
    levels = _levels(tensors)
    depths = {len(level) for level in levels}
    if not levels or len(depths) != 1 or not {"input_blocks.0.0.weight", "out.2.weight"} <= tensors.keys():
        raise UserError(f"{name} holds no whole latent-diffusion UNet: give the model.ckpt of a release")
    attention = [f"input_blocks.{level[0]}.1.qkv.weight" in tensors for level in levels]
    return {
        "in_channels": tensors["input_blocks.0.0.weight"].shape[1],
        "out_channels": tensors["out.2.weight"].shape[0],
        "block_out_channels": tuple(
            tensors[f"input_blocks.{level[0]}.0.in_layers.2.weight"].shape[0] for level in levels
        ),
        "layers_per_block": depths.pop(),
        "down_block_types": tuple("AttnDownBlock2D" if has else "DownBlock2D" for has in attention),
        "up_block_types": tuple("AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
        "attention_head_dim": HEAD_CHANNELS,
    }


def _refuse_conditional(tensors: Mapping[str, Tensor], *, name: str) -> None:
    marks = {
        "label_emb.": "a class-conditional model",
        ".transformer_blocks.": "a model conditioned by cross-attention (text, classes or layouts)",
        "id_predictor.": "a model that predicts codes",
    }
    for mark, kind in marks.items():
        if any(mark in tensor for tensor in tensors):
            raise UserError(f"{name} is {kind}: ddim-inversion takes unconditional ones, as CompVis' ffhq256")


def _levels(tensors: Mapping[str, Tensor]) -> list[list[int]]:
    """For each resolution the numbers of its input blocks with a residual block in them."""
    levels: list[list[int]] = [[]]
    number = 1
    while any(tensor.startswith(f"input_blocks.{number}.") for tensor in tensors):
        if f"input_blocks.{number}.0.op.weight" in tensors:
            levels.append([])
        elif f"input_blocks.{number}.0.in_layers.2.weight" in tensors:
            levels[-1].append(number)
        number += 1
    return levels


def convert_unet(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by UNet2DModel's names, views of the given ones; a name of no known meaning is kept."""
    converted = {}
    for name, value in tensors.items():
        layer, _, kind = name.rpartition(".")
        place = _place(layer, config["layers_per_block"])
        if place.endswith(".qkv"):
            for part, values in zip(_QUERIES, _split_heads(value), strict=True):
                converted[f"{place.removesuffix('qkv')}{part}.{kind}"] = values
        else:
            is_matrix = ".attentions." in place and value.ndim == 3
            converted[f"{place}.{kind}"] = value.squeeze(-1) if is_matrix else value
    return converted


def _place(layer: str, depth: int) -> str:
    """diffusers' name of one of CompVis' layers."""
    found = _BLOCK.fullmatch(layer)
    if layer in _FIXED or found is None:
        return _FIXED.get(layer, layer)
    way, number, inner, middle, part, middle_inner = found.groups()
    if middle:
        return _inside("mid_block", int(part) // 2, middle_inner)
    if way == "input":
        level, block = divmod(int(number) - 1, depth + 1)
        return _inside(f"down_blocks.{level}", block, inner)
    level, block = divmod(int(number), depth + 1)
    return _inside(f"up_blocks.{level}", block, inner)


def _inside(home: str, block: int, inner: str) -> str:
    if inner in _RESAMPLING:
        return f"{home}.{_RESAMPLING[inner]}"
    if inner in _RESNET:
        return f"{home}.resnets.{block}.{_RESNET[inner]}"
    return f"{home}.attentions.{block}.{_ATTENTION.get(inner, inner)}"


def _split_heads(value: Tensor) -> tuple[Tensor, ...]:
    """`qkv` (3 C, C, 1) or its bias (3 C,) -> queries, keys and values (C, C) or (C,)."""
    rows = value.flatten(1) if value.ndim > 1 else value
    heads = rows.reshape(-1, 3, HEAD_CHANNELS, *rows.shape[1:])
    return tuple(heads[:, part].flatten(0, 1) for part in range(3))
