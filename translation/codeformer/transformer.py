"""CodeFormer's code transformer: which entry of the code book each place of the encoder's map stands for."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_HEADS = 8
"""The one size that no tensor shows; CodeFormer has no other."""


class SelfAttention(nn.Module):
    """Multi-head attention with torch.nn.MultiheadAttention's parameters, whose values have no positions added.

    Args:
        dim: of a token, a multiple of NUM_HEADS.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % NUM_HEADS:
            raise ValueError(f"{dim} values in a token cannot be shared by {NUM_HEADS} heads")
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        dim = tokens.shape[2]
        chosen = F.linear(tokens + positions, self.in_proj_weight[: 2 * dim], self.in_proj_bias[: 2 * dim])
        value = F.linear(tokens, self.in_proj_weight[2 * dim :], self.in_proj_bias[2 * dim :])
        query, key, value = map(_heads, (chosen[..., :dim], chosen[..., dim:], value))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        mixed: Tensor = self.out_proj(attended)
        return mixed


def _heads(tokens: Tensor) -> Tensor:
    """(B, T, D) -> (B, NUM_HEADS, T, D / NUM_HEADS)."""
    return tokens.reshape(*tokens.shape[:2], NUM_HEADS, -1).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Norm and attention, norm and two linear layers with exact GELU between, each added to its input."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim)
        self.linear1 = nn.Linear(dim, mlp_dim)
        self.linear2 = nn.Linear(mlp_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        tokens = tokens + self.self_attn(self.norm1(tokens), positions)
        more: Tensor = self.linear2(F.gelu(self.linear1(self.norm2(tokens))))
        return tokens + more
