"""VSAIT's mapping network: a hypervector that carries what is particular to the source over to the target."""

import math

import torch
from torch import Tensor, nn


class HypervectorMapping(nn.Module):
    """Two layers and a tanh over each hypervector. The last layer begins as the constant 1."""

    def __init__(self, num_dimensions: int, *, seed: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(num_dimensions, num_dimensions)
        self.last = nn.Linear(num_dimensions, num_dimensions)
        draws = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(num_dimensions)  # PyTorch's own first weights of a layer
        nn.init.uniform_(self.first.weight, -bound, bound, generator=draws)
        nn.init.uniform_(self.first.bias, -bound, bound, generator=draws)
        nn.init.zeros_(self.last.weight)
        nn.init.ones_(self.last.bias)

    def forward(self, hypervectors: Tensor) -> Tensor:
        """(N, num_dimensions) to the same, in (-1, 1)."""
        return torch.tanh(self.last(torch.relu(self.first(hypervectors))))
