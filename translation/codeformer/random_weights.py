"""Checkpoints in CodeFormer's layout with random weights: the published sizes, or small ones for tests."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from d2r_fast.engine.files import open_atomic
from d2r_fast.engine.models.random_weights import JITTER, Spec, draw
from d2r_fast.translation.codeformer.blocks import (
    AttentionBlock,
    Downsample,
    ResBlock,
    Upsample,
    conv3x3,
    group_norm,
)  # fmt: skip
from d2r_fast.translation.codeformer.network import CodeFormerNetwork

CONTAINER = "params_ema"
"""Where the released file has its tensors."""
_FUSE = "fuse_convs_dict.{side}.encode_enc.conv2.weight"


@dataclass(frozen=True)
class Sizes:
    """What a CodeFormer is made in.

    Attributes:
        widths: channels at each halving, from the image down.
        num_res_blocks: at each of them.
        grid: side of the map of codes; attention is there alone.
        num_codes, code_dim: of the code book.
        num_layers, dim, mlp_dim: of the transformer.
        fused: sides of the maps that have a fuse block.
        dtype: of the file.
    """

    widths: tuple[int, ...]
    num_res_blocks: int
    grid: int
    num_codes: int
    code_dim: int
    num_layers: int
    dim: int
    mlp_dim: int
    fused: tuple[int, ...]
    dtype: torch.dtype = torch.float32


SIZES = {
    "full": Sizes((64, 128, 128, 256, 256, 512), 2, 16, 1024, 256, 9, 512, 1024, (32, 64, 128, 256)),
    "mini": Sizes((32, 32, 32), 1, 8, 16, 16, 2, 32, 48, (16,), torch.float16),
}
"""full: as released, 94.1 million parameters for 512 pixels. mini: 0.7 MB, for 32 pixels."""


def write_random_weights(path: Path, *, size: Literal["mini", "full"], seed: int = 0) -> None:
    """Writes a checkpoint as the released one is laid out, whose weights are a function of the seed alone.

    Raises:
        UserError: a place that cannot be written to.
        RunError: the disk is full.
    """
    sizes = SIZES[size]
    tensors = OrderedDict(
        (name, random_tensor(name, shape, seed=seed).to(sizes.dtype))
        for name, shape in shapes_of(sizes).items()
    )
    with open_atomic(path) as file:
        torch.save({CONTAINER: tensors}, file)  # type: ignore[arg-type]  # nothing but write() is asked of it


def random_tensor(name: str, shape: tuple[int, ...], *, seed: int) -> Tensor:
    """Matrices keep their input's variance; biases and norms are perturbed, so that none goes unnoticed."""
    if name == "quantize.embedding.weight" or name == "position_emb":
        spec = Spec(shape, 0.0, 1.0)
    elif len(shape) > 1:
        spec = Spec(shape, 0.0, 1 / math.sqrt(math.prod(shape[1:])))
    else:
        spec = Spec(shape, 0.0 if name.endswith("bias") else 1.0, JITTER)
    return torch.from_numpy(draw(spec, seed, "codeformer", name))


def shapes_of(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors."""
    deciding: dict[str, tuple[int, ...]] = {
        "position_emb": (sizes.grid**2, sizes.dim),
        "quantize.embedding.weight": (sizes.num_codes, sizes.code_dim),
    }
    for layer in range(sizes.num_layers):
        deciding[f"ft_layers.{layer}.linear1.weight"] = (sizes.mlp_dim, sizes.dim)
    for side in sizes.fused:
        width = sizes.widths[int(math.log2(sizes.grid * 2 ** (len(sizes.widths) - 1) / side))]
        deciding[_FUSE.format(side=side)] = (width, width, 3, 3)
    with torch.device("meta"):
        for stem, blocks in (("encoder", _encoder(sizes)), ("generator", _generator(sizes))):
            deciding |= {
                f"{stem}.blocks.{name}": shape for name, shape in _shapes(nn.ModuleList(blocks)).items()
            }
        return _shapes(CodeFormerNetwork(deciding))


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _encoder(sizes: Sizes) -> list[nn.Module]:
    blocks: list[nn.Module] = [conv3x3(3, sizes.widths[0])]
    for level, (before, width) in enumerate(pairwise((sizes.widths[0], *sizes.widths))):
        last = level == len(sizes.widths) - 1
        blocks += _level(before, width, sizes.num_res_blocks, attention=last)
        blocks += [] if last else [Downsample(width)]
    return [*blocks, *_middle(width), group_norm(width), conv3x3(width, sizes.code_dim)]


def _generator(sizes: Sizes) -> list[nn.Module]:
    widths = sizes.widths[::-1]
    blocks: list[nn.Module] = [conv3x3(sizes.code_dim, widths[0]), *_middle(widths[0])]
    for level, (before, width) in enumerate(pairwise((widths[0], *widths))):
        blocks += _level(before, width, sizes.num_res_blocks, attention=level == 0)
        blocks += [] if level == len(widths) - 1 else [Upsample(width)]
    return [*blocks, group_norm(width), conv3x3(width, 3)]


def _level(before: int, width: int, num_res_blocks: int, *, attention: bool) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for block in range(num_res_blocks):
        blocks.append(ResBlock(width if block else before, width))
        blocks += [AttentionBlock(width)] if attention else []
    return blocks


def _middle(width: int) -> list[nn.Module]:
    return [ResBlock(width, width), AttentionBlock(width), ResBlock(width, width)]
