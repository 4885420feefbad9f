"""Block neural autoregressive flows (De Cao et al. 2019) of one hidden layer: how likely a feature vector is.

Layout and first weights are those of the public density estimators that DECENT trains with.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

HIDDEN = 10
"""Hidden units of each dimension, bnaf_dim in DECENT's options."""
_LOG_2PI = math.log(2 * math.pi)


class BlockLinear(nn.Module):
    """A linear layer in blocks: output block i sees input blocks 0 to i, its own with positive weights.

    Args:
        inputs, outputs: units of each dimension.
        dim: dimensions.
    """

    mask_d: Tensor
    mask_o: Tensor

    def __init__(self, inputs: int, outputs: int, dim: int, *, draws: torch.Generator) -> None:
        super().__init__()
        self.inputs, self.outputs, self.dim = inputs, outputs, dim
        rows, columns = dim * outputs, dim * inputs
        self._weight = nn.Parameter(_block_weights(inputs, outputs, dim, draws))
        self._diag_weight = nn.Parameter(torch.rand(rows, 1, generator=draws).clamp_min(1e-7).log())
        bound = 1 / math.sqrt(rows)
        self.bias = nn.Parameter(torch.empty(rows).uniform_(-bound, bound, generator=draws))
        row_block = torch.arange(rows).div(outputs, rounding_mode="floor")[:, None]
        column_block = torch.arange(columns).div(inputs, rounding_mode="floor")[None, :]
        self.register_buffer("mask_d", (row_block == column_block).float())
        self.register_buffer("mask_o", (column_block < row_block).float())

    def weights(self) -> tuple[Tensor, Tensor]:
        """The masked weights (rows, columns), each row of its own length, and the logarithms of their diagonal blocks
        (dim, outputs, inputs)."""
        masked = torch.exp(self._weight) * self.mask_d + self._weight * self.mask_o
        squared = (masked**2).sum(-1, keepdim=True)
        weight = self._diag_weight.exp() * masked / squared.sqrt()
        shift = (self._diag_weight - 0.5 * torch.log(squared)).view(self.dim, self.outputs, 1)
        blocks = self._weight.view(self.dim, self.outputs, self.dim, self.inputs)
        diagonal = torch.diagonal(blocks, dim1=0, dim2=2).permute(2, 0, 1)
        return weight, diagonal + shift


def _block_weights(inputs: int, outputs: int, dim: int, draws: torch.Generator) -> Tensor:
    """Xavier's uniform weights for each row of blocks, by the columns that it sees."""
    weight = torch.zeros(dim * outputs, dim * inputs)
    for block in range(dim):
        seen = weight[block * outputs : (block + 1) * outputs, : (block + 1) * inputs]
        nn.init.xavier_uniform_(seen, generator=draws)
    return weight


class Bnaf(nn.Module):
    """Density of vectors: linear, tanh, linear, all autoregressive and monotone, onto a standard normal."""

    def __init__(self, dim: int, *, draws: torch.Generator, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.first = BlockLinear(1, hidden, dim, draws=draws)
        self.second = BlockLinear(hidden, 1, dim, draws=draws)

    def log_probs(self, rows: Tensor) -> Tensor:
        """Logarithm of the density of each row: (N, dim) float32 to (N,)."""
        first, log_first = self.first.weights()  # (dim * hidden, dim), (dim, hidden, 1)
        second, log_second = self.second.weights()  # (dim, dim * hidden), (dim, 1, hidden)
        before = torch.addmm(self.first.bias, rows, first.t())
        hidden, log_slopes = _squash(before, log_first[..., 0] + log_second[:, 0])
        outputs = torch.addmm(self.second.bias, hidden, second.t())
        return (log_slopes - 0.5 * (outputs**2 + _LOG_2PI)).sum(-1)


class _Squash(torch.autograd.Function):
    """tanh, and by how much each dimension is stretched on its way through it.

    Written out, because the stretch passes over the hidden units of all rows ten times otherwise.
    """

    @staticmethod
    def forward(ctx: Any, before: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        paths = softplus(before * -2)
        paths.add_(before).sub_(math.log(2)).mul_(
            -2
        )  # the logarithm of tanh's slope, also where that underflows
        paths = paths.view(len(before), *log_weights.shape).add_(log_weights)
        log_slopes = torch.logsumexp(paths, -1)
        hidden = torch.tanh(before)
        ctx.save_for_backward(hidden, paths.sub_(log_slopes[..., None]).exp_())
        return hidden, log_slopes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        of_hidden, of_slopes = gradients
        hidden, shares = ctx.saved_tensors
        through = shares * of_slopes[..., None]
        of_weights = through.sum(0)
        bent = through.view_as(hidden).mul_(hidden).mul_(-2)
        return bent.addcmul_(of_hidden, 1 - hidden**2), of_weights


def _squash(before: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden units (N, dim * hidden) after tanh, and for each dimension (N, dim) the logarithm of the sum over its
    hidden units of tanh's slope times the weights (dim, hidden) before and after it."""
    hidden, log_slopes = _Squash.apply(before, log_weights)  # type: ignore[no-untyped-call]
    return hidden, log_slopes


class PatchDensities(nn.Module):
    """One flow for every layer of features.

    Args:
        channels: of each layer.
        seed: of the first weights.
    """

    def __init__(self, channels: Sequence[int], *, seed: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.flows = nn.ModuleList(Bnaf(count, draws=draws) for count in channels)

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Log densities of the features at some places.

        Args:
            features: of each layer (B, C, H, W).
            places: for each layer int64 (P,), from 0 to H * W - 1.

        Returns:
            For each layer (B, P) float32.
        """
        found = []
        with torch.autocast(features[0].device.type, enabled=False):  # a density of bfloat16 is none
            for flow, feature, place in zip(self.flows, features, places, strict=True):
                assert isinstance(flow, Bnaf)
                rows = feature.flatten(2)[:, :, place].transpose(1, 2).flatten(0, 1)
                found.append(flow.log_probs(rows.float()).view(len(feature), -1))
        return found
