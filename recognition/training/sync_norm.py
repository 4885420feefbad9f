"""Batch norm over the batches of all processes, so that n of them compute what one would with the whole batch.

On CUDA this is torch.nn.SyncBatchNorm, which refuses a CPU; there the same sums go through gloo, in plain torch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2r_fast.recognition.training.distributed import Processes


def synchronise(network: nn.Module, processes: Processes) -> nn.Module:
    """The network with its batch norms' statistics taken over all processes; parameters and names stay."""
    if processes.group is None:
        return network
    if processes.device.type == "cuda":
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network, processes.group)  # type: ignore[no-untyped-call]
        return shared
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            _share(module, processes.group)
    return network


def _share(norm: nn.BatchNorm1d | nn.BatchNorm2d, group: dist.ProcessGroup) -> None:
    local = norm.forward

    def forward(input: Tensor) -> Tensor:
        return shared_norm(norm, input, group) if norm.training else local(input)

    norm.forward = forward  # type: ignore[method-assign]


def shared_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Batch norm of x (N, C, ...) by mean and variance over the rows of all processes; running statistics follow."""
    lower, x = x.dtype, x.float()  # under autocast it may be bfloat16, which cannot count
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    count = torch.full((1,), x.numel() / x.shape[1], dtype=x.dtype, device=x.device)
    moments = _sum(torch.cat([x.sum(axes), count]), group)
    sums, total = moments[:-1], moments[-1]
    mean = sums / total
    centred = x - mean.view(shape)
    # The mean first: a mean of squares less a squared mean loses the digits of a small variance.
    variance = _sum((centred * centred).sum(axes), group) / total
    if norm.track_running_stats:
        _follow(norm, mean.detach(), variance.detach(), float(total.detach()))
    scaled: Tensor = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.weight is not None:
        scaled = scaled * norm.weight.view(shape) + norm.bias.view(shape)
    return scaled.to(lower)


@torch.no_grad()
def _follow(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor, total: float) -> None:
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * total / (total - 1), norm.momentum)


def _sum(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    total: Tensor = _Sum.apply(values, group)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """A sum over the processes, whose gradient is the sum of theirs: every process's loss depends on every row."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone().contiguous()
        dist.all_reduce(total, group=ctx.group)
        return total, None
