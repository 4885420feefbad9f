"""Replaces the group norms of a diffusers network by the Triton kernel, and the SiLU behind them with it."""

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from d2r_fast.kernels.group_norm import group_norm


class FusedGroupNorm(nn.Module):
    """`nn.GroupNorm`, with SiLU behind it if asked, over the same parameters.

    Takes (N, C, H, W) or (N, C, L). What does not lie in memory as channels_last is copied to it first, as
    diffusers' transformer blocks hand out contiguous tensors; in a channels_last network the convolutions
    behind them put that right.
    """

    def __init__(self, norm: nn.GroupNorm, *, silu: bool) -> None:
        super().__init__()
        self.num_groups, self.eps, self.silu = norm.num_groups, norm.eps, silu
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dense = x.movedim(1, -1).contiguous().movedim(-1, 1)
        y: torch.Tensor = group_norm(dense, self.weight, self.bias, self.num_groups, self.eps, self.silu)
        return y


def fuse_norms(network: nn.Module) -> int:
    """Puts `FusedGroupNorm` for every group norm of a diffusers UNet or VAE, in place.

    For inference on CUDA, after the weights are loaded, since time_emb_proj changes its name. SiLU goes into
    the norms of ResnetBlock2D and into conv_norm_out; the norms of attention stay without.

    Returns:
        How many norms were replaced.

    Raises:
        ValueError: a residual block of another kind than Stable Diffusion's, a norm without weights.
    """
    for module in list(network.modules()):
        if isinstance(module, ResnetBlock2D):
            _fuse_block(module)
        elif isinstance(getattr(module, "conv_norm_out", None), nn.GroupNorm) and isinstance(
            module.conv_act, nn.SiLU
        ):
            module.conv_norm_out = _fused(module.conv_norm_out, silu=True)
            module.conv_act = nn.Identity()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, _fused(child, silu=False))
    return sum(isinstance(module, FusedGroupNorm) for module in network.modules())


def _fuse_block(block: Any) -> None:
    if not isinstance(block.nonlinearity, nn.SiLU) or block.time_embedding_norm == "scale_shift":
        raise ValueError(
            f"residual block with {block.nonlinearity} and time_embedding_norm {block.time_embedding_norm!r}: "
            "expected SiLU right behind each norm, as in Stable Diffusion"
        )
    block.norm1, block.norm2 = _fused(block.norm1, silu=True), _fused(block.norm2, silu=True)
    # The block applies its one nonlinearity to the time embedding too, which keeps it there.
    if block.time_emb_proj is not None and not block.skip_time_act:
        block.time_emb_proj = nn.Sequential(block.nonlinearity, block.time_emb_proj)
    block.nonlinearity = nn.Identity()


def _fused(norm: Any, *, silu: bool) -> FusedGroupNorm:
    if not isinstance(norm, nn.GroupNorm) or not norm.affine:
        raise ValueError(f"{norm}: expected a GroupNorm with weight and bias")
    return FusedGroupNorm(norm, silu=silu)
