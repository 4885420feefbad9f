"""A running mean of a generator's weights: adversarial training circles, and the mean stands still in the middle.

No method here was published with one; it is a setting. Yazici et al., "The unusual effectiveness of averaging in GAN
training", ICLR 2019.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Mean of a network's weights over about the last 1 / (1 - decay) steps, on its device.

    Args:
        network: whose; its weights are the first mean.
        decay: share of the mean that a step leaves. Early steps leave less, (1 + step) / (10 + step), so that the
            first weights, which are random, are forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._weights, self._decay = list(network.parameters()), decay
        self._means = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after update `step`, from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._means, [weight.detach() for weight in self._weights], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the mean for its weights meanwhile."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for weight, mean in zip(self._weights, self._means, strict=True):
            held = weight.detach().clone()
            weight.copy_(mean)
            mean.copy_(held)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """For a checkpoint."""
        return {"means": self._means}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, list[Tensor]]) -> None:
        """Goes to where `state_dict` was taken."""
        for mean, saved in zip(self._means, state["means"], strict=True):
            mean.copy_(saved)
