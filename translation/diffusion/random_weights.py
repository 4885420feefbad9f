"""Latent-diffusion checkpoints in CompVis' layout with random weights: the released size, or a small one.

Names and shapes are written out here from CompVis' description of its networks, not taken from the modules that read
them. Small is 3.3 MB, mostly as every group norm has 32 groups, which sets how narrow a network can be.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from d2r_fast.engine.files import open_atomic
from d2r_fast.engine.models.random_weights import JITTER, Spec, draw
from d2r_fast.translation.diffusion.compvis import (
    AVERAGED,
    AVERAGES,
    BUFFERS,
    FIRST_STAGE,
    UNET,
    released_alphas,
)

Size = Literal["mini", "full"]
Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class LdmSize:
    """What decides every shape of a checkpoint.

    Attributes:
        widths, depth: the UNet's channels at each resolution, and its residual blocks there.
        attention: resolutions with attention, numbered from fine to coarse.
        vq_widths, vq_depth: the first stage's.
        channels, num_codes: of the latents and their code book.
    """

    widths: tuple[int, ...]
    depth: int
    attention: frozenset[int]
    vq_widths: tuple[int, ...]
    vq_depth: int
    channels: int
    num_codes: int


SIZES: dict[Size, LdmSize] = {
    "full": LdmSize((224, 448, 672, 896), 2, frozenset({1, 2, 3}), (128, 256, 512), 2, 3, 8192),
    "mini": LdmSize((32, 32), 1, frozenset({1}), (32, 32), 1, 3, 64),
}
"""models/ldm/ffhq256 of CompVis, and one level less with 32 channels everywhere."""


def write_random_weights(path: Path, *, size: Size, seed: int = 0) -> None:
    """Writes a checkpoint as Lightning does, whose weights are a function of the seed alone.

    The running averages differ from the last step's weights, as in training; the schedule is the released one.

    Raises:
        UserError: a place that cannot be written to.
        RunError: the disk is full.
    """
    content = {
        "epoch": 0, "global_step": 1, "pytorch-lightning_version": "1.4.2",
        "state_dict": random_tensors(SIZES[size], seed=seed),
    }  # fmt: skip
    with open_atomic(path) as file:
        torch.save(content, file)  # type: ignore[arg-type]  # nothing but write() is asked of it


def random_tensors(size: LdmSize, *, seed: int = 0) -> dict[str, Tensor]:
    """A whole state dict: matrices keep their input's variance, and codes have that of the encoder's latents."""
    tensors: dict[str, Tensor] = OrderedDict(schedule_buffers())
    for name, shape in unet_shapes(size):
        tensors[UNET + name] = _draw(shape, seed, UNET + name)
    tensors[f"{AVERAGES}decay"] = torch.tensor(0.9999)
    tensors[f"{AVERAGES}num_updates"] = torch.tensor(1, dtype=torch.int32)
    for name, shape in unet_shapes(size):
        average = AVERAGES + (AVERAGED + name).replace(".", "")
        tensors[average] = _draw(shape, seed, average, is_bias=name.endswith("bias"))
    for name, shape in vq_shapes(size):
        tensors[FIRST_STAGE + name] = _draw(shape, seed, FIRST_STAGE + name)
    return tensors


def _draw(shape: tuple[int, ...], seed: int, name: str, *, is_bias: bool | None = None) -> Tensor:
    is_bias = name.endswith("bias") if is_bias is None else is_bias
    if name.endswith("embedding.weight"):
        spec = Spec(shape, 0.0, 0.5)
    elif len(shape) == 1:
        spec = Spec(shape, 0.0 if is_bias else 1.0, JITTER)
    else:
        spec = Spec(shape, 0.0, 1 / math.sqrt(math.prod(shape[1:])))
    return torch.from_numpy(draw(spec, seed, "ldm", name))


def schedule_buffers() -> dict[str, Tensor]:
    """What CompVis' program keeps of the released schedule: 12 tables (1000,) float32."""
    alphas = released_alphas()
    before = torch.cat((torch.ones(1, dtype=torch.float64), alphas[:-1]))
    betas = 1 - alphas / before
    variance = betas * (1 - before) / (1 - alphas)
    tables = (
        betas, alphas, before, alphas.sqrt(), (1 - alphas).sqrt(), (1 - alphas).log(), (1 / alphas).sqrt(),
        (1 / alphas - 1).sqrt(), variance, variance.clamp(min=1e-20).log(), betas * before.sqrt() / (1 - alphas),
        (1 - before) * (1 - betas).sqrt() / (1 - alphas),
    )  # fmt: skip
    return {name: table.float() for name, table in zip(BUFFERS, tables, strict=True)}


def unet_shapes(size: LdmSize) -> Shapes:
    """Names in CompVis' UNet -> shapes, in its order."""
    first, last = size.widths[0], size.widths[-1]
    time = 4 * first
    yield from _dense("time_embed.0", first, time)
    yield from _dense("time_embed.2", time, time)
    yield from _conv("input_blocks.0.0", size.channels, first)
    skips, width, number = [first], first, 1
    for level, wide in enumerate(size.widths):
        for _ in range(size.depth):
            yield from _unet_block(f"input_blocks.{number}", width, wide, time, level in size.attention)
            skips, width, number = [*skips, wide], wide, number + 1
        if level < len(size.widths) - 1:
            yield from _conv(f"input_blocks.{number}.0.op", width, width)
            skips, number = [*skips, width], number + 1
    yield from _unet_resnet("middle_block.0", last, last, time)
    yield from _unet_attention("middle_block.1", last)
    yield from _unet_resnet("middle_block.2", last, last, time)
    number = 0
    for level, wide in reversed(list(enumerate(size.widths))):
        for block in range(size.depth + 1):
            home, has = f"output_blocks.{number}", level in size.attention
            yield from _unet_block(home, width + skips.pop(), wide, time, has)
            if level and block == size.depth:
                yield from _conv(f"{home}.{2 if has else 1}.conv", wide, wide)
            width, number = wide, number + 1
    yield from _norm("out.0", first)
    yield from _conv("out.2", first, size.channels)


def vq_shapes(size: LdmSize) -> Shapes:
    """Names in CompVis' VQ first stage -> shapes."""
    widths, channels = size.vq_widths, size.channels
    yield from _conv("encoder.conv_in", 3, widths[0])
    width = widths[0]
    for level, wide in enumerate(widths):
        for block in range(size.vq_depth):
            yield from _vq_resnet(f"encoder.down.{level}.block.{block}", width, wide)
            width = wide
        if level < len(widths) - 1:
            yield from _conv(f"encoder.down.{level}.downsample.conv", width, width)
    yield from _vq_ends("encoder", width, width, channels)
    yield from _conv("decoder.conv_in", channels, width)
    for level, wide in reversed(list(enumerate(widths))):
        for block in range(size.vq_depth + 1):
            yield from _vq_resnet(f"decoder.up.{level}.block.{block}", width, wide)
            width = wide
        if level:
            yield from _conv(f"decoder.up.{level}.upsample.conv", width, width)
    yield from _vq_ends("decoder", widths[-1], width, 3)
    yield "quantize.embedding.weight", (size.num_codes, channels)
    yield from _conv("quant_conv", channels, channels, side=1)
    yield from _conv("post_quant_conv", channels, channels, side=1)


def _unet_block(home: str, takes: int, gives: int, time: int, has_attention: bool) -> Shapes:
    yield from _unet_resnet(f"{home}.0", takes, gives, time)
    if has_attention:
        yield from _unet_attention(f"{home}.1", gives)


def _unet_resnet(home: str, takes: int, gives: int, time: int) -> Shapes:
    yield from _norm(f"{home}.in_layers.0", takes)
    yield from _conv(f"{home}.in_layers.2", takes, gives)
    yield from _dense(f"{home}.emb_layers.1", time, gives)
    yield from _norm(f"{home}.out_layers.0", gives)
    yield from _conv(f"{home}.out_layers.3", gives, gives)
    if takes != gives:
        yield from _conv(f"{home}.skip_connection", takes, gives, side=1)


def _unet_attention(home: str, width: int) -> Shapes:
    yield from _norm(f"{home}.norm", width)
    for name, gives in (("qkv", 3 * width), ("proj_out", width)):
        yield f"{home}.{name}.weight", (gives, width, 1)
        yield f"{home}.{name}.bias", (gives,)


def _vq_resnet(home: str, takes: int, gives: int) -> Shapes:
    yield from _norm(f"{home}.norm1", takes)
    yield from _conv(f"{home}.conv1", takes, gives)
    yield from _norm(f"{home}.norm2", gives)
    yield from _conv(f"{home}.conv2", gives, gives)
    if takes != gives:
        yield from _conv(f"{home}.nin_shortcut", takes, gives, side=1)


def _vq_ends(home: str, middle: int, last: int, gives: int) -> Shapes:
    """The middle of a side, and what it ends in."""
    yield from _vq_resnet(f"{home}.mid.block_1", middle, middle)
    yield from _norm(f"{home}.mid.attn_1.norm", middle)
    for name in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{home}.mid.attn_1.{name}", middle, middle, side=1)
    yield from _vq_resnet(f"{home}.mid.block_2", middle, middle)
    yield from _norm(f"{home}.norm_out", last)
    yield from _conv(f"{home}.conv_out", last, gives)


def _dense(name: str, takes: int, gives: int) -> Shapes:
    yield f"{name}.weight", (gives, takes)
    yield f"{name}.bias", (gives,)


def _conv(name: str, takes: int, gives: int, *, side: int = 3) -> Shapes:
    yield f"{name}.weight", (gives, takes, side, side)
    yield f"{name}.bias", (gives,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
