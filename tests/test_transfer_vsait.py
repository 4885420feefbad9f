"""VSAIT's update against one written out as the released program makes it, and the networks that it compares by."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.translation.gan.vsait import VsaitGenerator
from d2r_fast.translation.training.config import TransferRecipe
from d2r_fast.translation.training.hypervector_discriminator import hinge_fake, hinge_real
from d2r_fast.translation.training.hypervectors import HypervectorProjection
from d2r_fast.translation.training.vgg import BLOCKS, TAPS, read_vgg19
from d2r_fast.translation.training.vsait_objective import VsaitObjective

WIDTHS = (3, 4, 6, 8, 8)
DIMENSIONS = 24
SIZE = 64


def vgg_tensors(*, seed: int = 0) -> dict[str, Tensor]:
    """VGG-19's names with narrow layers, and weights that keep the features' size."""
    draws, tensors, before = torch.Generator().manual_seed(seed), {}, 3
    for numbers, width in zip(BLOCKS, WIDTHS, strict=True):
        for number in numbers:
            spread = (2 / (9 * before)) ** 0.5
            tensors[f"features.{number}.weight"] = torch.randn(width, before, 3, 3, generator=draws) * spread
            tensors[f"features.{number}.bias"] = torch.randn(width, generator=draws) * 0.1
            before = width
    return tensors | {"classifier.6.bias": torch.zeros(2)}


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(vgg_tensors(), path)
    return path


def images(count: int, *, seed: int, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def objective(vgg: Path, **settings: object) -> VsaitObjective:
    values = {"method": "vsait", "size": SIZE, "ngf": 4, "num_blocks": 2, "vgg": vgg}
    recipe = TransferRecipe.model_validate(values | {"hypervector_dim": DIMENSIONS} | settings)
    example = (images(1, seed=0), images(1, seed=1))
    return VsaitObjective.build(recipe, seed=3, device=torch.device("cpu"), example=example)


def lived_in(built: VsaitObjective) -> VsaitObjective:
    """With a mapping that is no constant and a discriminator that is not flat."""
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        built.mapping.last.weight.add_(torch.randn(DIMENSIONS, DIMENSIONS, generator=draws) * 0.2)
        for parameter in built.discriminator.parameters():
            parameter.mul_(5) if parameter.ndim > 1 else parameter.add_(0.05)
    return built


def nothing() -> torch.Generator:
    return torch.Generator()


def torchvision_features(tensors: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """A Sequential as torchvision builds it, whose ReLUs work in place, its taps held while it runs."""
    layers: list[nn.Module] = []
    for numbers in BLOCKS:
        for number in numbers:
            weight, bias = tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            layer.weight, layer.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
            layers += [layer, nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
    held = []
    for number, module in enumerate(layers[: TAPS[-1] + 1]):
        image = module(image)
        if number in TAPS:
            held.append(image)
    return held


def hypervectors_of(features: list[Tensor], directions: Tensor) -> Tensor:
    """By convolutions as wide as their stride, one for each layer, (B, D, h, w)."""
    sums: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    first = 0
    for layer, feature in enumerate(features):
        side = 16 >> layer
        length = feature.shape[1] * side**2
        kernels = directions[:, first : first + length].view(-1, feature.shape[1], side, side)
        sums = sums + F.conv2d(feature, kernels, stride=side)
        one = torch.ones(1, 1, side, side)
        squares = squares + F.conv2d(feature.square().sum(1, keepdim=True), one, stride=side)
        first += length
    lengths = directions.square().sum(1).view(1, -1, 1, 1)
    assert isinstance(squares, Tensor)
    return sums / (squares.sqrt() * lengths.sqrt() + 1e-5)


def test_features_are_those_that_torchvision_s_in_place_relu_leaves(vgg: Path) -> None:
    network, image = read_vgg19(vgg), images(2, seed=0, size=48)
    ours, expected = network(image), torchvision_features(vgg_tensors(), image)
    assert network.channels == WIDTHS
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert [bool((feature < 0).any()) for feature in ours] == [False] * 4 + [True]


def test_hypervectors_are_cosines_by_the_published_convolutions(vgg: Path) -> None:
    features = read_vgg19(vgg)(images(2, seed=0, size=48))
    projection = HypervectorProjection(WIDTHS, num_dimensions=10, seed=1)
    grid = hypervectors_of(features, projection.directions)
    assert grid.shape == (2, 10, 3, 3)
    rows = projection(features)
    torch.testing.assert_close(rows, grid.permute(0, 2, 3, 1).flatten(0, 2), rtol=1e-4, atol=1e-6)
    assert rows.abs().max() <= 1


def test_directions_are_the_seed_s_and_no_part_of_the_state() -> None:
    one, same, other = (HypervectorProjection((3, 2), num_dimensions=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.directions, same.directions)
    assert not torch.equal(one.directions, other.directions)
    assert not one.state_dict()
    assert one.directions.shape == (4, 3 * 256 + 2 * 64)


class Published:
    """One update in the released program's order: both optimisers' passes each from the images."""

    def __init__(self, built: VsaitObjective) -> None:
        self.vgg, self.directions = vgg_tensors(), built.projection.directions
        self.modules = copy.deepcopy(built.modules)
        of_g = [*self.modules["generator"].parameters(), *self.modules["mapping"].parameters()]
        of_d = self.modules["discriminator"].parameters()
        self.adams = [
            torch.optim.Adam(moved, lr=rate, betas=(0.0, 0.9), weight_decay=1e-4)
            for moved, rate in ((of_g, 1e-4), (of_d, 4e-4))
        ]

    def hypervectors(self, image: Tensor) -> Tensor:
        grid = hypervectors_of(torchvision_features(self.vgg, image), self.directions)
        return grid.permute(0, 2, 3, 1).flatten(0, 2)

    def judged(self, image: Tensor, source: Tensor) -> list[Tensor]:
        judge, of_source = self.modules["discriminator"], self.hypervectors(source)
        return [judge(self.hypervectors(image)), judge(of_source * self.modules["mapping"](of_source))]

    def learns(self, *names: str) -> None:
        for name, module in self.modules.items():
            module.requires_grad_(name in names)

    def update(self, source: Tensor, target: Tensor) -> dict[str, float]:
        self.learns("generator", "mapping")
        fake = self.modules["generator"](source)
        of_fake, of_source = self.hypervectors(fake), self.hypervectors(source)
        bound = of_fake * self.modules["mapping"](of_source).detach()
        vsa = (1 - torch.cosine_similarity(bound, of_source.detach(), dim=1)).mean()
        adv = -sum(score.mean() for score in self.judged(fake, source)) / 2
        self.move(0, 10 * vsa + adv)
        self.learns("discriminator")
        scores = self.judged(self.modules["generator"](source).detach(), source)
        scores.append(self.modules["discriminator"](self.hypervectors(target)))
        signs = (-1, -1, 1)
        parts = [
            -torch.clamp(sign * score - 1, max=0).mean() for sign, score in zip(signs, scores, strict=True)
        ]
        discr = sum(parts, torch.zeros(())) / 3
        self.move(1, discr)
        losses = {"vsa": vsa, "adv": adv, "G": 10 * vsa + adv, "D": discr}
        return {name: loss.item() for name, loss in losses.items()}

    def move(self, which: int, loss: Tensor) -> None:
        self.adams[which].zero_grad()
        loss.backward()
        self.adams[which].step()


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@pytest.mark.parametrize("num", [1, 2])
def test_an_update_is_the_published_one(vgg: Path, num: int) -> None:
    built = lived_in(objective(vgg))
    published = Published(built)
    for step in range(2):
        source, target = images(num, seed=10 + step), images(num, seed=20 + step)
        expected = published.update(source, target)
        losses = built.step(source, target, draws=nothing())
        assert losses.keys() == expected.keys()
        for name, loss in losses.items():
            assert loss.item() == pytest.approx(expected[name], rel=2e-4, abs=1e-5), name
    ours, theirs = gradients(built.generator), gradients(published.modules["generator"])
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_the_first_mapping_gradient_and_step_are_the_published_ones(vgg: Path) -> None:
    built = lived_in(objective(vgg))
    published = Published(built)
    published.update(images(1, seed=10), images(1, seed=20))
    built.step(images(1, seed=10), images(1, seed=20), draws=nothing())
    ours, theirs = gradients(built.mapping), gradients(published.modules["mapping"])
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()
    # Adam's first step is its rate in every direction that has a gradient.
    torch.testing.assert_close(
        built.mapping.last.bias, published.modules["mapping"].last.bias, rtol=0, atol=1e-6
    )
    assert not torch.equal(built.mapping.last.bias, objective(vgg).mapping.last.bias)


def test_the_cosine_loss_teaches_the_mapping_nothing(vgg: Path) -> None:
    built = lived_in(objective(vgg, lambda_gan=0.0))
    before = copy.deepcopy(built.discriminator.state_dict())
    with torch.no_grad():
        of_source = built._hypervectors(images(1, seed=0))
    built._train_generator(images(1, seed=0), of_source)
    assert gradients(built.mapping).abs().max() == 0
    assert gradients(built.generator).abs().max() > 0
    assert all(p.grad is None for p in built.discriminator.parameters())
    assert all(torch.equal(value, before[name]) for name, value in built.discriminator.state_dict().items())


def test_hinge_losses_stop_at_their_margins() -> None:
    scores = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    assert hinge_real(scores).item() == pytest.approx((4 + 2 + 1) / 5)
    assert hinge_fake(scores).item() == pytest.approx((1 + 2 + 4) / 5)


def test_it_goes_on_bit_for_bit_from_its_state(vgg: Path) -> None:
    first, second = lived_in(objective(vgg)), objective(vgg)
    first.step(images(1, seed=0), images(1, seed=1), draws=nothing())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for built in (first, second):
        built.step(images(1, seed=2), images(1, seed=3), draws=nothing())
    for name, module in first.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, second.modules[name].state_dict()[key]), key


def test_first_weights(vgg: Path) -> None:
    built = objective(vgg, hypervector_dim=256, ngf=16)
    carried = built.mapping(torch.randn(3, 256, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(carried, torch.full((3, 256), 0.76159416))  # tanh(1)
    spread = 0.2 * (2 / (9 * 128)) ** 0.5
    convolution = built.generator.decoder.net[0].get_submodule("net.0.conv")
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.std().item() == pytest.approx(spread, rel=0.05)
    assert torch.equal(built.discriminator.net[0].bias, torch.zeros(1024))


def test_learning_rates_halve_every_hundred_thousand_steps(vgg: Path) -> None:
    built = objective(vgg)
    for step, share in ((0, 1.0), (99_999, 1.0), (100_000, 0.5), (200_000, 0.25)):
        built.set_learning_rates(step, num_steps=300_000)
        rates = [built.optimisers[name].param_groups[0]["lr"] for name in ("generator", "discriminator")]
        assert rates == pytest.approx([1e-4 * share, 4e-4 * share])


def test_its_generator_is_a_checkpoint_of_the_method(vgg: Path) -> None:
    built, source = objective(vgg), images(1, seed=4)
    network = VsaitGenerator.from_tensors(built.generator_tensors(), Path("generator.safetensors"))
    torch.testing.assert_close(network(source), built.translate(source, draws=nothing()))


def test_bf16_networks_get_float32_losses(vgg: Path) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        losses = lived_in(objective(vgg)).step(images(1, seed=0), images(1, seed=1), draws=nothing())
    exact = lived_in(objective(vgg)).step(images(1, seed=0), images(1, seed=1), draws=nothing())
    assert losses["D"].dtype == losses["vsa"].dtype == torch.float32
    assert losses["vsa"].item() == pytest.approx(exact["vsa"].item(), rel=0.1)


def refused(tmp_path: Path, tensors: dict[str, Tensor]) -> str:
    path = tmp_path / "weights.pth"
    torch.save(tensors, path)
    with pytest.raises(UserError) as caught:
        read_vgg19(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_network_s_file_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    whole = vgg_tensors()
    assert "holds no features.N.weight" in refused(tmp_path, {"conv1.weight": torch.zeros(1)})
    vgg16 = {name.replace("features.16.", "features.17."): value for name, value in whole.items()}
    assert "another network than VGG-19 (features.17.bias is none of its)" in refused(tmp_path, vgg16)
    normed = whole | {"features.1.running_mean": torch.zeros(3)}
    assert "is a VGG with batch norms" in refused(tmp_path, normed)
    cut = {
        name: value for name, value in whole.items() if not name.startswith(("features.30", "features.34"))
    }
    assert "lacks 4 tensors of VGG-19, the first features.30.weight" in refused(tmp_path, cut)
    wrong = whole | {"features.5.weight": torch.zeros(4, 9, 3, 3)}
    assert "features.5.weight is (4, 9, 3, 3), VGG-19 has (4, 3, 3, 3)" in refused(tmp_path, wrong)
    with pytest.raises(UserError, match="is missing"):
        read_vgg19(tmp_path / "none.pth")


@pytest.mark.slow
def test_hypervectors_of_the_published_length_learn_on_a_cpu(vgg: Path) -> None:
    built = objective(vgg, hypervector_dim=4096)
    losses = [built.step(images(1, seed=0), images(1, seed=1), draws=nothing()) for _ in range(4)]
    assert losses[-1]["D"] < losses[0]["D"]
