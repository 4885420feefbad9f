"""The nearest entry of a code book."""

import torch
from torch import Tensor, nn


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
        """Numbers of the codes, (N,h,w) int64."""
        pixels, codes = latents.flatten(2).float(), self.get_buffer("codes").float()
        distances = torch.zeros((), device=pixels.device)
        for channel in range(latents.shape[1]):
            difference = pixels[:, channel, :, None] - codes[:, channel]
            distances = distances + difference * difference
        indices: Tensor = distances.argmin(dim=-1).unflatten(1, latents.shape[2:])  # type: ignore[no-untyped-call]
        return indices

    def look_up(self, indices: Tensor) -> Tensor:
        """Codes of these numbers: (N,h,w) int64 -> (N,C,h,w)."""
        return torch.nn.functional.embedding(indices, self.get_buffer("codes")).permute(0, 3, 1, 2)
