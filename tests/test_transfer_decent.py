"""DECENT's training step against its public program and against its own rules."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2r_fast.translation.gan.decent import DecentGenerator
from d2r_fast.translation.training.config import TransferRecipe
from d2r_fast.translation.training.decent_objective import DecentObjective
from d2r_fast.translation.training.feature_layers import feature_layers
from d2r_fast.translation.training.objectives import objective_of
from d2r_fast.translation.training.patch_discriminator import PatchDiscriminator

GOLDEN = [
    {"nll_A": 235.91955245, "nll_B": 216.01700941, "D_fake": 0.41315779, "D_real": 1.11504197,
     "G_GAN": 1.03824861, "idt": 6.64191014, "var": 5.73594457, "G": 7.73751820},
    {"nll_A": 246.81786126, "nll_B": 213.64580008, "D_fake": 0.42018463, "D_real": 0.97694384,
     "G_GAN": 1.03778934, "idt": 6.76366798, "var": 6.87357719, "G": 7.87019290},
]  # fmt: skip
"""Losses of two steps of the public model: ngf and ndf 4, nine blocks, two images of 32 pixels, 16 patches of each
layer, the last ones of it, all weights 0.3 times sines of their index; computed there in float64 on a CPU."""


def build(**settings: Any) -> DecentObjective:
    values = {"method": "decent", "size": 32, "batch_size": 2, "ngf": 4, "ndf": 4, "num_blocks": 2}
    return DecentObjective.build(
        TransferRecipe(**values | {"num_patches": 16} | settings),
        seed=1,
        device=torch.device("cpu"),
        example=(picture(0), picture(1)),
    )


def fill(module: nn.Module) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            index = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_((0.3 * torch.sin(0.7 * index + number)).view(parameter.shape))


def picture(phase: float) -> Tensor:
    index = torch.arange(2 * 3 * 32 * 32, dtype=torch.float64)
    return torch.sin(0.013 * index + phase).view(2, 3, 32, 32).float()


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def take_step(objective: DecentObjective, number: int = 0) -> dict[str, float]:
    losses = objective.step(picture(number), picture(number + 2.5), draws=draws(number))
    assert all(loss.ndim == 0 and not loss.requires_grad for loss in losses.values())
    return {name: float(loss) for name, loss in losses.items()}


def test_two_steps_are_those_of_the_public_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second shows the updates of all networks, their order and the flows' running means. In float64, where
    instance norms do not magnify what order sums are taken in."""
    monkeypatch.setattr(torch, "randperm", lambda num, **_: torch.arange(num).flip(0))
    objective = build(num_blocks=9)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    for module in objective.modules.values():
        fill(module.double())
    assert take_step(objective, 0) == pytest.approx(GOLDEN[0], rel=1e-7)
    assert take_step(objective, 1) == pytest.approx(GOLDEN[1], rel=1e-7)


def test_a_step_in_float32_is_that_of_the_public_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randperm", lambda num, **_: torch.arange(num).flip(0))
    objective = build(num_blocks=9)
    for module in objective.modules.values():
        fill(module)
    assert take_step(objective) == pytest.approx(GOLDEN[0], rel=5e-4)


def test_every_network_moves_and_the_flows_come_back() -> None:
    objective = build()
    before = {name: [p.clone() for p in module.parameters()] for name, module in objective.modules.items()}
    take_step(objective)
    for name, module in objective.modules.items():
        moved = [
            not torch.equal(old, new) for old, new in zip(before[name], module.parameters(), strict=True)
        ]
        assert all(moved), name
    far = [
        float((old - new).detach().abs().max())
        for old, new in zip(before["flows_a"], objective.flows_a.parameters(), strict=True)
    ]
    assert max(far) < 2e-3, "one step of 1e-3 away, not exchanged for their running means"


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    """So that batches can be joined: a row's gradient is that of the row alone."""
    generator, discriminator = build().generator, build().discriminator
    both = torch.cat((picture(0)[:1], picture(1)[:1]))
    for network in (generator, discriminator):
        together, alone = network(both)[1:], network(both[1:])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_weights_of_the_losses() -> None:
    plain = take_step(build())
    heavy = take_step(build(lambda_gan=2.0, lambda_idt=5.0, lambda_var=1.0))
    assert heavy["G_GAN"] == pytest.approx(2 * plain["G_GAN"], rel=1e-4)
    assert heavy["idt"] == pytest.approx(0.5 * plain["idt"], rel=1e-4)
    assert plain["G"] == pytest.approx(plain["G_GAN"] + plain["idt"] + 0.01 * plain["var"], rel=1e-4)
    assert heavy["G"] == pytest.approx(heavy["G_GAN"] + heavy["idt"] + heavy["var"], rel=1e-4)


def test_without_their_loss_the_densities_are_left_alone() -> None:
    objective = build(lambda_var=0.0)
    before = [p.clone() for p in objective.flows_a.parameters()]
    losses = take_step(objective)
    assert set(losses) == {"D_fake", "D_real", "G_GAN", "idt", "G"}
    assert all(torch.equal(a, b) for a, b in zip(before, objective.flows_a.parameters(), strict=True))


def test_variance_is_of_each_image_or_of_all() -> None:
    """Two images whose densities change by different constants: 0 in each, not over both."""
    changes = torch.tensor([[1.0, 1, 1], [3, 3, 3]])
    assert float(build()._variance(changes)) == 0
    assert float(build(var_all=True)._variance(changes)) == pytest.approx(1.2)


def test_draws_alone_decide() -> None:
    one, other, third = build(), build(), build()
    for objective, seed in ((one, 0), (other, 0), (third, 1)):
        objective.step(picture(0), picture(2.5), draws=draws(seed))
    pairs = zip(one.generator.parameters(), other.generator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    flows = zip(one.flows_a.parameters(), third.flows_a.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in flows)


def test_a_loaded_state_goes_on_as_the_saved_one() -> None:
    one, other = build(), DecentObjective.build(
        TransferRecipe(method="decent", size=32, batch_size=2, ngf=4, ndf=4, num_blocks=2, num_patches=16),
        seed=9, device=torch.device("cpu"), example=(picture(0), picture(1)),
    )  # fmt: skip
    take_step(one)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert take_step(one, 1) == take_step(other, 1)
    for a, b in zip(one.generator_tensors().values(), other.generator_tensors().values(), strict=True):
        assert torch.equal(a, b)


def test_learning_rates_follow_the_published_schedule() -> None:
    objective = build(epochs=1, decay_epochs=1)
    objective.set_learning_rates(0, num_steps=10)
    first = {name: each.param_groups[0]["lr"] for name, each in objective.optimisers.items()}
    assert first == {"generator": 2e-4, "discriminator": 2e-4, "flows": 1e-3}
    objective.set_learning_rates(9, num_steps=10)
    last = {name: each.param_groups[0]["lr"] for name, each in objective.optimisers.items()}
    assert last == pytest.approx({"generator": 1e-4, "discriminator": 1e-4, "flows": 5e-4})
    own = build(learning_rate=1e-3, discriminator_learning_rate=4e-3, flow_learning_rate=5e-3)
    assert own.rates == {"generator": 1e-3, "discriminator": 4e-3, "flows": 5e-3}


@pytest.mark.parametrize(
    ("num_blocks", "layers"),
    [(9, (0, 4, 8, 12, 16)), (5, (0, 4, 8, 12, 16)), (2, (0, 4, 8, 12, 13)), (1, (0, 4, 8, 12))],
)
def test_features_are_of_the_published_layers(num_blocks: int, layers: tuple[int, ...]) -> None:
    assert feature_layers(num_blocks) == layers


def test_the_generator_has_the_public_layout() -> None:
    tensors = build(num_blocks=9).generator_tensors()
    assert len(tensors) == 52
    assert tensors["model.12.conv_block.1.weight"].shape == (16, 16, 3, 3)
    assert set(tensors) == set(DecentGenerator(4).state_dict())


def test_the_discriminator_sees_patches_of_the_public_names() -> None:
    network = PatchDiscriminator(ndf=64)
    assert sum(p.numel() for p in network.parameters()) == 2_764_737
    assert sorted({int(name.split(".")[1]) for name in network.state_dict()}) == [0, 2, 3, 6, 7, 10, 11, 14]
    assert network(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    assert PatchDiscriminator(ndf=4)(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 2, 2)


def test_first_weights_are_xavier_s_of_gain_002() -> None:
    convolution = build(ngf=32).generator.get_submodule("model.12.conv_block.1")
    assert isinstance(convolution, nn.Conv2d)
    fan = 128 * 9
    assert float(convolution.weight.detach().std()) == pytest.approx(0.02 * (2 / (2 * fan)) ** 0.5, rel=0.02)
    assert float(convolution.bias.detach().abs().max()) == 0  # type: ignore[union-attr]


def test_bfloat16_keeps_the_densities_in_float32() -> None:
    objective = build()
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        rough = take_step(objective)
    exact = take_step(build())
    assert rough["idt"] == pytest.approx(exact["idt"], rel=0.02)
    assert rough["nll_A"] == pytest.approx(exact["nll_A"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in objective.generator.parameters())


def test_the_registry_knows_it() -> None:
    assert objective_of("decent") is DecentObjective
