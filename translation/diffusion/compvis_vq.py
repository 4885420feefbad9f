"""CompVis' VQ first stage as diffusers' VQModel: the same network under other names.

Its resolutions are numbered from fine to coarse on both sides, where diffusers numbers the decoder's in the order in
which they run. Group norms have 32 groups and an epsilon of 1e-6; the one attention in the middle has one head. The
encoder pads below and to the right before it halves. All of that is what VQModel has.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from d2r_fast.engine.errors import UserError

_CODES = "quantize.embedding.weight"
_ENDS = {"norm_out": "conv_norm_out"}
_RESNET = {"nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}


def vq_config(tensors: Mapping[str, Tensor], *, name: str) -> dict[str, Any]:
    """VQModel's settings for a CompVis first stage, from its names and shapes.

    Args:
        tensors: by CompVis' names, without a prefix.
        name: of the file, for messages.

    Raises:
        UserError: another first stage, or none.
    """
    if _CODES not in tensors and "encoder.conv_in.weight" in tensors:
        raise UserError(
            f"{name} has a first stage without a code book (KL): ddim-inversion takes the VQ of CompVis' ffhq256 and "
            "celeba256, or a diffusers folder"
        )
    widths: list[int] = []
    while (tensor := f"encoder.down.{len(widths)}.block.0.conv1.weight") in tensors:
        widths.append(tensors[tensor].shape[0])
    needed = {_CODES, "encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight"}
    if not widths or not needed <= tensors.keys():
        raise UserError(
            f"{name} has no whole first stage (first_stage_model.*), so nothing makes latents of pixels: give the "
            "model.ckpt as it was released"
        )
    depth = sum(
        re.fullmatch(r"encoder\.down\.0\.block\.\d+\.conv1\.weight", tensor) is not None for tensor in tensors
    )
    return {
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0],
        "block_out_channels": tuple(widths),
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": depth,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "num_vq_embeddings": tensors[_CODES].shape[0],
        "vq_embed_dim": tensors[_CODES].shape[1],
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in tensors,
    }  # fmt: skip


def convert_vq(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by VQModel's names, views of the given ones; a name of no known meaning is kept."""
    num_levels = len(config["block_out_channels"])
    converted = {}
    for name, value in tensors.items():
        place = _place(name.split("."), num_levels)
        is_matrix = ".attentions." in place and value.ndim == 4
        converted[place] = value.flatten(1) if is_matrix else value
    return converted


def _place(parts: list[str], num_levels: int) -> str:
    match parts:
        case ["encoder" | "decoder" as side, "mid", middle, *inner] if middle in _MIDDLE:
            return ".".join((side, "mid_block", _MIDDLE[middle], *_renamed(inner)))
        case ["encoder", "down", level, "block", block, *inner]:
            return ".".join(("encoder.down_blocks", level, "resnets", block, *_renamed(inner)))
        case ["decoder", "up", level, "block", block, *inner]:
            return ".".join(
                ("decoder.up_blocks", _running(level, num_levels), "resnets", block, *_renamed(inner))
            )
        case ["encoder", "down", level, "downsample", *inner]:
            return ".".join(("encoder.down_blocks", level, "downsamplers.0", *inner))
        case ["decoder", "up", level, "upsample", *inner]:
            return ".".join(("decoder.up_blocks", _running(level, num_levels), "upsamplers.0", *inner))
        case ["encoder" | "decoder" as side, end, kind]:
            return ".".join((side, _ENDS.get(end, end), kind))
    return ".".join(parts)


def _renamed(inner: list[str]) -> list[str]:
    first, *rest = inner
    return [_RESNET.get(first) or _ATTENTION.get(first, first), *rest]


def _running(level: str, num_levels: int) -> str:
    """Number of the decoder's level in the order in which they run."""
    return str(num_levels - 1 - int(level))
