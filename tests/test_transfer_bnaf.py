"""Densities by block neural autoregressive flows, and the Adam that keeps a running mean."""

import math

import pytest
import torch
from torch import Tensor, nn

from d2r_fast.translation.training.bnaf import Bnaf, PatchDensities
from d2r_fast.translation.training.polyak_adam import PolyakAdam

GOLDEN = [-0.33930804, -9.08978436, -15.93376855]


def flow(dim: int, *, seed: int = 0) -> Bnaf:
    return Bnaf(dim, draws=torch.Generator().manual_seed(seed)).double()


def test_densities_are_the_public_ones() -> None:
    """Recorded from the public BNAFModel(3, n_flows=1, n_layers=0, hidden_dim=10), its weights sines of their index."""
    model = flow(3)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            index = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_((torch.sin(0.7 * index + number) * 0.3).view_as(parameter))
    rows = torch.tensor([[0.0, 0, 0], [0.5, -1, 2], [-3, 4, 0.1]], dtype=torch.float64)
    assert model.log_probs(rows).tolist() == pytest.approx(GOLDEN, abs=1e-7)


def test_a_density_is_one_in_all() -> None:
    """Or as much of the normal as lies between the ends that tanh lets a flow reach."""
    model = flow(1)
    axis = torch.linspace(-200, 200, 400_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        found = float(model.log_probs(axis).exp().sum() * 0.001)
        low, high = _outputs(model, torch.tensor([[-1e9], [1e9]], dtype=torch.float64)).flatten()
    reached = 0.5 * float(torch.erf(high / 2**0.5) - torch.erf(low / 2**0.5))
    assert found == pytest.approx(reached, rel=1e-4)
    assert 0.05 < reached < 1


def test_the_stretch_is_the_jacobian_s_determinant() -> None:
    model = flow(4, seed=3)
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = []
    for row in rows:
        jacobian = torch.autograd.functional.jacobian(lambda x: _outputs(model, x[None])[0], row).detach()
        assert torch.equal(jacobian.triu(1), torch.zeros_like(jacobian)), "autoregressive"
        assert bool((jacobian.diagonal() > 0).all()), "monotone"
        normal = -0.5 * (_outputs(model, row[None])[0].detach() ** 2 + math.log(2 * math.pi)).sum()
        expected.append(float(normal + torch.logdet(jacobian)))
    assert model.log_probs(rows).tolist() == pytest.approx(expected, rel=1e-9)


def test_gradients_are_those_of_differences() -> None:
    model = flow(3)
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: model.log_probs(x), (rows, *model.parameters()))


def test_far_from_everything_a_density_is_small_and_finite() -> None:
    model = flow(3).float()
    rows = torch.full((1, 3), 300.0, requires_grad=True)
    found = model.log_probs(rows)
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    assert -1e5 < float(found.detach()) < -100
    assert bool(gradient.isfinite().all())


def test_a_flow_learns_a_density() -> None:
    draws = torch.Generator().manual_seed(0)
    model = Bnaf(2, draws=draws)
    data = torch.randn(512, 2, generator=draws) @ torch.tensor([[0.4, 0.2], [0.0, 0.1]])
    optimiser = PolyakAdam(model.parameters(), lr=3e-2, polyak=0.9)
    for _ in range(150):
        optimiser.zero_grad()
        torch.autograd.backward(-model.log_probs(data).mean())
        optimiser.step()
    entropy = 0.5 * math.log((2 * math.pi * math.e) ** 2 * (0.4 * 0.1) ** 2)
    assert -float(model.log_probs(data).detach().mean()) == pytest.approx(entropy, abs=0.15)
    optimiser.swap()
    assert -float(model.log_probs(data).detach().mean()) == pytest.approx(entropy, abs=0.15)


def test_patches_are_looked_at_where_they_are() -> None:
    densities = PatchDensities([3, 5], seed=0)
    draws = torch.Generator().manual_seed(2)
    features = [torch.randn(2, 3, 6, 6, generator=draws), torch.randn(2, 5, 3, 3, generator=draws)]
    places = [torch.tensor([0, 7, 35]), torch.tensor([8])]
    found = densities(features, places)
    assert [tuple(each.shape) for each in found] == [(2, 3), (2, 1)]
    second = densities.flows[0].log_probs(features[0][1, :, 1, 1][None])
    torch.testing.assert_close(found[0][1, 1], second[0])
    laid = [feature.to(memory_format=torch.channels_last) for feature in features]
    for one, other in zip(found, densities(laid, places), strict=True):
        torch.testing.assert_close(one, other)


def test_adam_is_amsgrad_with_a_mean_from_zero() -> None:
    """The rule, written out once more for one number."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimiser = PolyakAdam([weight], lr=0.1, polyak=0.9)
    value, mean, square, largest, average = 1.0, 0.0, 0.0, 0.0, 0.0
    for step, gradient in enumerate((3.0, -0.5, 0.1, 2.0), 1):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimiser.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        largest = max(largest, square)
        size = 0.1 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        value -= size * mean / (math.sqrt(largest) + 1e-8)
        average = 0.9 * average + 0.1 * value
        assert float(weight.detach()) == pytest.approx(value, rel=1e-12)
    optimiser.swap()
    assert float(weight.detach()) == pytest.approx(average, rel=1e-12)
    optimiser.swap()
    assert float(weight.detach()) == pytest.approx(value, rel=1e-12)


def test_adam_goes_on_from_its_state() -> None:
    def run(steps: int, state: dict[str, object] | None, start: Tensor) -> tuple[Tensor, dict[str, object]]:
        weight = nn.Parameter(start.clone())
        optimiser = PolyakAdam([weight], lr=0.05)
        if state is not None:
            optimiser.load_state_dict(state)
        for _ in range(steps):
            weight.grad = torch.sin(3 * weight.detach())
            optimiser.step()
        return weight.detach(), optimiser.state_dict()

    start = torch.randn(3, generator=torch.Generator().manual_seed(0))
    whole, _ = run(6, None, start)
    half, state = run(3, None, start)
    assert torch.equal(run(3, state, half)[0], whole)


def _outputs(model: Bnaf, rows: Tensor) -> Tensor:
    """Where the flow takes rows."""
    first, second = model.first.weights()[0], model.second.weights()[0]
    hidden = torch.tanh(rows @ first.T + model.first.bias)
    return hidden @ second.T + model.second.bias
