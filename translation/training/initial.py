"""First weights of the networks that are trained."""

import torch
from torch import nn

GAIN = 0.02
"""CUT's, which DECENT and UNSB have too."""


def draw_weights(network: nn.Module, *, seed: int, gain: float = GAIN) -> None:
    """Xavier's normal weights for every convolution and linear layer, biases 0; a function of `seed`.

    On the CPU: what a device draws is its own.
    """
    draws = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(module.weight, gain=gain, generator=draws)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
