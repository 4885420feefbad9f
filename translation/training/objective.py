"""What a method's training is: its networks, its optimisers, and one whole update of them all, as published.

Data, order, resuming, metrics and files are the trainer's business; a method knows losses and updates alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from d2r_fast.translation.training.config import TransferRecipe


class Objective(ABC):
    """Networks and optimisers of one method, on their device.

    Args:
        modules: the generator first, as "generator"; then everything else that has weights, frozen ones excepted.
        optimisers: by the name of what they move.

    Attributes:
        SOURCES: batches of source images that one step takes. UNSB takes two that do not depend on each other.
    """

    SOURCES: ClassVar[int] = 1

    def __init__(
        self, modules: Mapping[str, nn.Module], optimisers: Mapping[str, torch.optim.Optimizer]
    ) -> None:
        assert next(iter(modules)) == "generator", "the generator comes first"
        self.modules = dict(modules)
        self.optimisers = dict(optimisers)

    @classmethod
    @abstractmethod
    def build(
        cls, recipe: TransferRecipe, *, seed: int, device: torch.device, example: tuple[Tensor, Tensor]
    ) -> Self:
        """Networks with their first weights, which `seed` alone decides.

        Args:
            recipe: a value of None is the published one.
            seed: of the weights.
            device: where they are to live.
            example: source and target images as `step` takes them, on the CPU, for layers that data give their size.

        Raises:
            UserError: a file that the recipe names cannot be used.
        """

    @classmethod  # noqa: B027 (most methods need no file)
    def check(cls, recipe: TransferRecipe) -> None:
        """Sees that files which the recipe names can be used, before a folder is taken for the run.

        Raises:
            UserError: one cannot.
        """

    @abstractmethod
    def step(self, source: Tensor, target: Tensor, *, draws: torch.Generator) -> dict[str, Tensor]:
        """One update of every network, in the published order.

        Args:
            source: (SOURCES * B, 3, S, S) float32 in [-1, 1] on the device; with SOURCES 2 the second batch follows the
                first.
            target: (B, 3, S, S), in the same way.
            draws: where all randomness comes from, on the CPU, seeded for this step: a resumed run is the same run.

        Returns:
            Losses by name, as they were before the update: 0-d, detached, on the device. Nobody waits for them here.
        """

    @abstractmethod
    def set_learning_rates(self, step: int, *, num_steps: int) -> None:
        """Learning rates of update `step` (from 0) of `num_steps`, by the published schedule."""

    @abstractmethod
    def translate(self, source: Tensor, *, draws: torch.Generator) -> Tensor:
        """Source images (B, 3, S, S) as they are translated now: the same shape and range, without gradient."""

    def generator_tensors(self) -> dict[str, Tensor]:
        """The generator in its publisher's checkpoint layout, on the CPU, as translate --weights takes it."""
        return plain_tensors(self.modules["generator"].state_dict())

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs. A method with more than modules and optimisers adds it."""
        return {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state_dict` was taken."""
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])


def plain_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors on the CPU, laid out plainly, of nothing but themselves."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def require_gradients(wanted: bool, *modules: nn.Module) -> None:
    """Switches the gradients of whole networks on or off."""
    for module in modules:
        module.requires_grad_(wanted)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of all of an optimiser's groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def linear_decay(step: int, *, num_steps: int, epochs: tuple[int, int]) -> float:
    """Share of the learning rate at `step` of CUT's linear policy, which DECENT and UNSB use.

    It is whole for the first of `epochs`; in epoch k of the second it is 1 - k / (second + 1), the same for all steps
    of an epoch. Here an epoch is the share of `num_steps` that falls to it.
    """
    first, second = epochs
    epoch = step * (first + second) // num_steps
    return 1.0 - max(0, epoch + 1 - first) / (second + 1)


def adam(
    parameters: Iterable[nn.Parameter], rate: float, *, betas: tuple[float, float], weight_decay: float = 0.0
) -> torch.optim.Adam:
    """Adam with fused updates on CUDA, where there are hundreds of small tensors; the same formula everywhere."""
    listed = list(parameters)
    fused = True if listed[0].is_cuda else None
    return torch.optim.Adam(listed, lr=rate, betas=betas, weight_decay=weight_decay, fused=fused)
