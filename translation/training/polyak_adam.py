"""Adam with AMSGrad and a running mean of the weights, as DECENT's density estimators are trained."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class PolyakAdam(torch.optim.Optimizer):
    """AMSGrad with the bias corrections of Adam, and after every step mean = polyak * mean + (1 - polyak) * weight.

    The mean begins at 0 and is not corrected for that: for its first thousand steps or so it is that of a flow nearer
    to 0, which is what DECENT was published with. Epsilon is added before the corrections, not after as in
    torch.optim.Adam.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, polyak: float = 0.998,
    ) -> None:  # fmt: skip
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "polyak": polyak})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves every weight that has a gradient."""
        assert closure is None, "one gradient, one step"
        for group in self.param_groups:
            self._step(group, [weight for weight in group["params"] if weight.grad is not None])

    def _step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        states = [self._state_of(weight) for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        mean, square, largest, average = (
            [state[name] for state in states] for name in ("mean", "square", "largest", "average")
        )
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(mean, gradients, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - beta2)
        torch._foreach_maximum_(largest, square)
        step = states[0]["step"] + 1
        for state in states:
            state["step"] = step
        size = group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        spread = torch._foreach_sqrt(largest)
        torch._foreach_add_(spread, group["eps"])
        torch._foreach_addcdiv_(weights, mean, spread, -size)
        torch._foreach_lerp_(average, weights, 1 - group["polyak"])

    def _state_of(self, weight: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[weight]
        if not state:
            state["step"] = 0
            for name in ("mean", "square", "largest", "average"):
                state[name] = torch.zeros_like(weight)
        return state

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights and their running means; a second time, back."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                weight.data, state["average"] = state["average"], weight.data
