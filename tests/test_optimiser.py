"""The learning rate of every step, and what decays."""

import math
from itertools import pairwise

import pytest
import torch

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import BackboneConfig, Layout
from d2r_fast.recognition.heads import build_head
from d2r_fast.recognition.training.config import RECIPES, TrainRecipe
from d2r_fast.recognition.training.optimiser import build_optimiser, learning_rate

STEPS = 10  # of an epoch


def rates(recipe: TrainRecipe) -> list[float]:
    return [learning_rate(recipe, step, STEPS) for step in range(recipe.epochs * STEPS)]


def test_cosine_is_torchs() -> None:
    recipe = TrainRecipe(schedule="cosine", epochs=3, learning_rate=0.1)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=3 * STEPS)
    for found in rates(recipe):
        assert found == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
        optimiser.step()
        reference.step()


def test_steps_fall_after_whole_epochs() -> None:
    recipe = TrainRecipe(schedule="steps", epochs=4, milestones=(1, 3), gamma=0.1, learning_rate=0.1)
    found = rates(recipe)
    assert found[:10] == [0.1] * 10
    assert found[10:30] == [pytest.approx(0.01)] * 20
    assert found[30:] == [pytest.approx(0.001)] * 10


def test_polynomial_falls_evenly_to_nearly_nothing() -> None:
    found = rates(TrainRecipe(schedule="polynomial", epochs=2, learning_rate=0.2))
    assert found[0] == 0.2
    assert all(before - after == pytest.approx(0.01) for before, after in pairwise(found))


@pytest.mark.parametrize("schedule", ["cosine", "steps", "polynomial"])
def test_warmup_rises_to_the_full_rate(schedule: str) -> None:
    recipe = TrainRecipe(schedule=schedule, epochs=4, warmup_epochs=1, milestones=(3,), learning_rate=0.1)
    found = rates(recipe)
    assert found[:10] == sorted(found[:10])
    assert 0 < found[0] < found[9] < 0.1
    assert found[10] == pytest.approx(0.1)
    assert math.isclose(max(found), 0.1)


@pytest.mark.parametrize("layout", ["insightface", "adaface"])
@pytest.mark.parametrize("decay_norms", [False, True])
def test_batch_norms_decay_only_where_asked(layout: Layout, decay_norms: bool) -> None:
    network = build_backbone(
        BackboneConfig(name="ir_18", layout=layout, width=0.125, embedding_dim=16), seed=0
    )
    head = build_head("adaface", embedding_dim=16, num_classes=4, seed=0)
    model = torch.nn.ModuleDict({"backbone": network, "head": head})
    groups = build_optimiser(model, TrainRecipe(decay_norms=decay_norms)).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    learnt = {name: decay[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    norms = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d)
        for part in ("weight", "bias")
    } & set(learnt)
    assert norms
    assert {learnt[name] for name in norms} == {5e-4 if decay_norms else 0.0}
    assert {value for name, value in learnt.items() if name not in norms} == {5e-4}
    assert "head.kernel" in learnt
    assert len(decay) == len(learnt)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"milestones": (5, 3)}, "rising"),
        ({"warmup_epochs": 30.0}, "fewer"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch_size": 1}, "batch_size"),
        ({"margn": 0.5}, "did you mean 'margin'"),
    ],
)
def test_refuses(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrainRecipe(**values)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_published_recipes_are_allowed(name: str) -> None:
    recipe = TrainRecipe(**RECIPES[name]())
    assert recipe.backbone == "ir_50"
    assert recipe.learning_rate == 0.1
    assert recipe.weight_decay == 5e-4


def test_digi2real_is_the_papers() -> None:
    recipe = TrainRecipe(**RECIPES["digi2real"]())
    assert (recipe.epochs, recipe.batch_size, recipe.schedule, recipe.head) == (30, 256, "cosine", "adaface")
    assert (recipe.h, recipe.t_alpha, recipe.scale, recipe.momentum) == (0.333, 0.01, 64.0, 0.9)
