"""The nearest entry of a code book."""

import math

import torch
from torch import Tensor, nn

GROUP = 128
"""Codes that are looked at again; where their number has no such divisor, its common one."""


class Quantiser(nn.Module):
    """Latents (N,C,h,w) -> for every pixel the code nearest to it, of the same shape.

    Squared distances are sums of squared differences, one channel after the other, in float32 whatever the network
    computes in. Multiplied out (|z|^2 + |e|^2 - 2 z e) they would be small differences of large numbers, in which
    float16 cannot tell a code from its neighbours. There is no matrix product in it either: lowering a graph to half
    precision begins at the first one, and leaves this alone. Of codes that are equally near the first is taken.

    Args:
        codes: (K, C).
    """

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, latents: Tensor) -> Tensor:
        return self.look_up(self.nearest(latents)).to(latents.dtype)

    def nearest(self, latents: Tensor) -> Tensor:
        """Numbers of the codes, (N,h,w) int64.

        First the group of codes that has the nearest, then which of them it is: runtimes find where a row is least
        three times more slowly than how small it gets.
        """
        pixels, codes = latents.flatten(2).transpose(1, 2).float(), self.get_buffer("codes").float()
        size = math.gcd(len(codes), GROUP)
        groups = codes.view(-1, size, codes.shape[1])
        distances = _squared_distances(pixels, codes).view(*pixels.shape[:2], -1, size)
        best = distances.amin(3).argmin(2)
        inside = _squared_distances(pixels, groups[best]).argmin(2)
        return (best * size + inside).view(latents.shape[0], *latents.shape[2:])

    def look_up(self, indices: Tensor) -> Tensor:
        """Codes of these numbers: (N,h,w) int64 -> (N,C,h,w)."""
        found = torch.nn.functional.embedding(indices, self.get_buffer("codes")).permute(0, 3, 1, 2)
        return (
            found.contiguous()
        )  # as a view, torch's group norms further on would be four times less exact on a CPU


def _squared_distances(pixels: Tensor, codes: Tensor) -> Tensor:
    """(N,P,C) and (K,C) or (N,P,K,C) -> (N,P,K)."""
    distances = torch.zeros((), device=pixels.device)
    for channel in range(pixels.shape[2]):
        difference = pixels[:, :, None, channel] - codes[..., channel]
        distances = distances + difference * difference
    return distances
