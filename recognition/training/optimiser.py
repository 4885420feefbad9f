"""SGD as the field trains recognisers with it, and its learning rate at every step."""

import math

import torch
from torch import nn

from d2r_fast.recognition.training.config import TrainRecipe

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def build_optimiser(model: nn.Module, recipe: TrainRecipe) -> torch.optim.SGD:
    """SGD with momentum; batch norms decay only where the recipe says so, everything else that is learnt does."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learnt if id(p) not in norms], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learnt if id(p) in norms],
         "weight_decay": recipe.weight_decay if recipe.decay_norms else 0.0},
    ]  # fmt: skip
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


def learning_rate(recipe: TrainRecipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of step number `step`, from 0 on.

    After a linear warm-up: cosine, lr (1 + cos(pi p)) / 2, and polynomial, lr (1 - p), with p the share of the steps
    after the warm-up that are done; steps, lr gamma^k after k milestones, which count whole epochs.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (math.ceil(warmup) + 1)
    if recipe.schedule == "steps":
        passed = sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
        return recipe.learning_rate * recipe.gamma**passed
    share = (step - warmup) / (recipe.epochs * steps_per_epoch - warmup)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * share)) / 2
    return recipe.learning_rate * (1 - share)


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """For all parameters, from the next step on."""
    for group in optimiser.param_groups:
        group["lr"] = value
