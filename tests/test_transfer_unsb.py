"""UNSB's update against one written out pass by pass as the released program makes it."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.translation.gan.schroedinger_bridge import bridge_times, next_state
from d2r_fast.translation.gan.unsb import UnsbGenerator
from d2r_fast.translation.training.config import TransferRecipe
from d2r_fast.translation.training.timed_discriminator import TimedDiscriminator
from d2r_fast.translation.training.unsb_objective import UnsbObjective

SIZE = 32
LAYERS = (0, 4, 8, 12, 16)
SEED_OF_TIME = {0: 1, 1: 3, 4: 0}
"""Seeds of draws that begin with these times."""


def recipe(**settings: object) -> TransferRecipe:
    values = {"method": "unsb", "size": SIZE, "ngf": 6, "ndf": 6, "num_blocks": 5} | settings
    return TransferRecipe.model_validate(values)


def images(count: int, *, seed: int) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def objective(*, sharpen: float = 8.0, **settings: object) -> UnsbObjective:
    """With weights that are not the flat first ones, so that every loss has a say."""
    cpu, example = torch.device("cpu"), (images(2, seed=0), images(1, seed=1))
    built = UnsbObjective.build(recipe(**settings), seed=7, device=cpu, example=example)
    with torch.no_grad():
        for module in built.modules.values():
            for parameter in module.parameters():
                parameter.mul_(sharpen) if parameter.ndim > 1 else parameter.add_(0.1)
    return built


def draws(time: int) -> torch.Generator:
    return torch.Generator().manual_seed(SEED_OF_TIME[time])


class PassByPass:
    """One update in the released program's order, every image and every pass alone, nothing left out."""

    def __init__(self, built: UnsbObjective, source: Tensor, target: Tensor, draws: torch.Generator) -> None:
        self.modules = copy.deepcopy(built.modules)
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), lr=2e-4, betas=(0.5, 0.999))
            for name, module in self.modules.items()
        }
        self.source, self.other = source.chunk(2)
        self.target, self.draws, self.num = target, draws, len(target)
        self.losses: dict[str, float] = {}

    def normal(self, *shape: int) -> tuple[Tensor, ...]:
        """Of the source, the target and the other source."""
        return torch.randn(3 * self.num, *shape, generator=self.draws).chunk(3)

    def ask(self, image: Tensor, time: int, codes: Tensor) -> Tensor:
        return torch.cat([
            self.modules["generator"](image[i : i + 1], torch.tensor([time]), codes[i : i + 1])
            for i in range(len(image))
        ])  # fmt: skip

    def walk(self) -> None:
        times = torch.tensor([0, 0.5, 0.5 + 0.5 * 12 / 25, 0.5 + 0.5 * 18 / 25, 0.5 + 0.5 * 22 / 25, 1.0])
        self.time = int(torch.randint(5, (1,), generator=self.draws))
        codes_length = 4 * self.modules["generator"].channels
        states = [self.source, self.target, self.other]
        with torch.no_grad():
            for step in range(1, self.time + 1):
                codes = self.normal(codes_length)
                ends = [self.ask(state, step - 1, code) for state, code in zip(states, codes, strict=True)]
                noise = self.normal(3, SIZE, SIZE)
                share = (times[step] - times[step - 1]) / (1 - times[step - 1])
                spread = ((times[step] - times[step - 1]) * (1 - share) * 0.01).sqrt()
                states = [(1 - share) * states[i] + share * ends[i] + spread * noise[i] for i in range(3)]
        self.states = states
        codes = self.normal(codes_length)
        self.fake, self.same, self.fake_other = (
            self.ask(state, self.time, code) for state, code in zip(states, codes, strict=True)
        )

    def judge(self, name: str, image: Tensor) -> Tensor:
        score: Tensor = self.modules[name](image, torch.tensor([self.time]))
        return score

    def move(self, loss: Tensor, *names: str) -> None:
        for name in names:
            self.optimisers[name].zero_grad()
        loss.backward()
        for name in names:
            self.optimisers[name].step()

    def energies(self, fake: Tensor, fake_other: Tensor) -> tuple[Tensor, Tensor]:
        pair, other = torch.cat((self.states[0], fake), 1), torch.cat((self.states[2], fake_other), 1)
        own = self.judge("energy", torch.cat((pair, pair), 1)).mean()
        return own, torch.logsumexp(self.judge("energy", torch.cat((pair, other), 1)).reshape(-1), dim=0)

    def contrast(self, image: Tensor, translated: Tensor, codes: Tensor, places: list[Tensor]) -> Tensor:
        generator, sampler, total = self.modules["generator"], self.modules["sampler"], torch.zeros(())
        start = torch.zeros(1, dtype=torch.int64)
        keys, queries = (generator.features(x, LAYERS, start, codes) for x in (image, translated))
        for layer, place in enumerate(places):
            project = sampler.get_submodule(f"mlp_{layer}")
            key, query = (
                F.normalize(project(x[layer].flatten(2)[:, :, place].mT), dim=2, eps=1e-12)
                for x in (keys, queries)
            )
            for one_key, one_query in zip(key.detach(), query, strict=True):
                logits = one_query @ one_key.T / 0.07
                total = total + F.cross_entropy(logits, torch.arange(len(place))) / (self.num * len(places))
        return total

    def update(self) -> None:
        self.walk()
        fake, real = self.judge("discriminator", self.fake.detach()), self.judge("discriminator", self.target)
        self.losses |= {"D_fake": (fake**2).mean().item(), "D_real": ((real - 1) ** 2).mean().item()}
        self.move(((fake**2).mean() + ((real - 1) ** 2).mean()) / 2, "discriminator")
        own, rest = self.energies(self.fake.detach(), self.fake_other.detach())
        self.losses["E"] = (-own + rest + rest**2).item()
        self.move(-own + rest + rest**2, "energy")
        adversarial = ((self.judge("discriminator", self.fake) - 1) ** 2).mean()
        own, rest = self.energies(self.fake, self.fake_other)
        bridge = -(5 - self.time) / 5 * 0.01 * (own - rest)
        bridge = bridge + 0.01 * ((self.states[0] - self.fake) ** 2).mean()
        codes = torch.randn(2 * self.num, 4 * self.modules["generator"].channels, generator=self.draws)
        sizes = [(SIZE + 6) ** 2, SIZE**2, SIZE**2 // 4, SIZE**2 // 16, SIZE**2 // 16]
        places = [[torch.randperm(s, generator=self.draws)[:256] for s in sizes] for _ in range(2)]
        source = self.contrast(self.source, self.fake, codes[: self.num], places[0])
        target = self.contrast(self.target, self.same, codes[self.num :], places[1])
        loss = adversarial + bridge + (source + target) / 2
        named = {"G_GAN": adversarial, "SB": bridge, "NCE": source, "NCE_Y": target, "G": loss}
        self.losses |= {name: value.item() for name, value in named.items()}
        self.move(loss, "generator", "sampler")


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@pytest.mark.parametrize(("time", "num", "intended"), [(0, 1, False), (4, 1, True), (1, 2, False)])
def test_an_update_is_the_published_one(time: int, num: int, intended: bool) -> None:
    built, source, target = objective(intended=intended), images(2 * num, seed=2), images(num, seed=3)
    plain = PassByPass(built, source, target, draws(time))
    plain.update()
    assert plain.time == time
    losses = built.step(source, target, draws=draws(time))
    assert losses.keys() == plain.losses.keys()
    for name, loss in losses.items():
        assert float(loss) == pytest.approx(plain.losses[name], rel=2e-4, abs=1e-6), name
    # A gradient of rounding alone, as of a bias before a norm, is a whole step to Adam: gradients are compared.
    for name in ("energy", "sampler", "generator"):
        ours, theirs = gradients(built.modules[name]), gradients(plain.modules[name])
        assert (ours - theirs).norm() < 5e-3 * theirs.norm(), name


def test_weights_move_by_adam_from_their_gradients() -> None:
    built = objective()
    before = {name: value.clone() for name, value in built.generator.named_parameters()}
    built.set_learning_rates(0, num_steps=10)
    built.step(images(2, seed=2), images(1, seed=3), draws=draws(1))
    for name, after in built.generator.named_parameters():
        expected = before[name]
        if after.grad is not None:
            expected = expected - 2e-4 * after.grad / (after.grad.abs() + 1e-8)  # Adam's first step
        torch.testing.assert_close(after, expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("intended", [False, True])
def test_what_the_released_block_never_looks_at_stays(intended: bool) -> None:
    built = objective(intended=intended)
    before = copy.deepcopy(built.generator.state_dict())
    built.step(images(2, seed=2), images(1, seed=3), draws=draws(4))
    moved = {
        name for name, value in built.generator.state_dict().items() if not torch.equal(value, before[name])
    }
    assert "model_res.0.conv_fin.2.weight" in moved
    idle = ("model_res.0.conv_block.1.weight", "model_res.0.Dense_time.weight", "time_embed.0.weight")
    assert all((name in moved) == intended for name in idle)


def test_the_generator_s_loss_leaves_the_other_networks_alone() -> None:
    built, source, target = objective(), images(2, seed=2), images(1, seed=3)
    scene = built._predict(source, target, draws(1))
    built._train_discriminator(scene)
    built._train_energy(scene)
    kept = {name: gradients(built.modules[name]).clone() for name in ("discriminator", "energy")}
    assert all(p.grad is None for p in built.generator.parameters())
    built._train_generator(scene, torch.Generator().manual_seed(0))
    for name, gradient in kept.items():
        assert torch.equal(gradients(built.modules[name]), gradient)
    assert not scene.states.requires_grad


def test_it_goes_on_bit_for_bit_from_its_state() -> None:
    first, source, target = objective(), images(2, seed=2), images(1, seed=3)
    first.step(source, target, draws=draws(1))
    second = objective(sharpen=1.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    losses = [built.step(source, target, draws=draws(0)) for built in (first, second)]
    assert losses[0] == losses[1]
    for name, module in first.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, second.modules[name].state_dict()[key]), key


def test_first_weights_are_the_seed_s_and_flat() -> None:
    built = [objective(sharpen=1.0).generator.state_dict() for _ in range(2)]
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])
    convolution = UnsbObjective.build(
        recipe(ngf=32), seed=0, device=torch.device("cpu"), example=(images(2, seed=0), images(1, seed=0))
    ).generator.model[4]
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.std().item() == pytest.approx(0.02 * (2 / (9 * 96)) ** 0.5, rel=0.05)


def test_learning_rates_are_whole_then_fall_by_epoch() -> None:
    built = objective(epochs=2, decay_epochs=3, learning_rate=1e-3, discriminator_learning_rate=4e-3)
    rates = []
    for step in (0, 19, 20, 29, 30, 49):
        built.set_learning_rates(step, num_steps=50)
        rates.append(built.optimisers["generator"].param_groups[0]["lr"])
        assert built.optimisers["discriminator"].param_groups[0]["lr"] == pytest.approx(4 * rates[-1])
    assert rates == pytest.approx([1e-3, 1e-3, 0.75e-3, 0.75e-3, 0.5e-3, 0.25e-3])


@pytest.mark.parametrize(
    ("name", "loss"), [("lambda_gan", "G_GAN"), ("lambda_sb", "SB"), ("lambda_nce", "NCE")]
)
def test_a_weight_weighs_its_loss(name: str, loss: str) -> None:
    def total(**settings: object) -> dict[str, Tensor]:
        return objective(**settings).step(images(2, seed=2), images(1, seed=3), draws=draws(1))

    one, three = total(), total(**{name: 3.0})
    parts = {"G_GAN": one["G_GAN"], "SB": one["SB"], "NCE": (one["NCE"] + one["NCE_Y"]) / 2}
    assert float(three["G"] - one["G"]) == pytest.approx(2 * float(parts[loss]), rel=1e-4, abs=1e-5)


def test_its_generator_is_a_checkpoint_of_the_method() -> None:
    for intended in (False, True):
        built = objective(intended=intended)
        network = UnsbGenerator.from_tensors(built.generator_tensors(), Path("generator.safetensors"))
        assert network.intended == intended
        codes = torch.zeros(1, network.code_length)
        image, start = images(1, seed=5), torch.zeros(1, dtype=torch.int64)
        torch.testing.assert_close(network(image, start, codes), built.generator(image, start, codes))


def test_translations_depend_on_their_draws() -> None:
    built, source = objective(), images(2, seed=5)
    first, again, other = (built.translate(source, draws=draws(time)) for time in (0, 0, 1))
    assert first.shape == source.shape
    assert not first.requires_grad
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bf16_networks_get_float32_losses() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        losses = objective().step(images(2, seed=2), images(1, seed=3), draws=draws(1))
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    exact = objective().step(images(2, seed=2), images(1, seed=3), draws=draws(1))
    assert float(losses["NCE"]) == pytest.approx(float(exact["NCE"]), rel=0.1)


def test_times_of_the_bridge() -> None:
    assert bridge_times() == pytest.approx([0, 0.5, 0.74, 0.86, 0.94, 1])
    ones, zeros = torch.ones(2), torch.zeros(2)
    assert next_state(ones, zeros, zeros, index=2).tolist() == pytest.approx(
        [0.52] * 2
    )  # (1 - 0.74) / (1 - 0.5)
    assert next_state(zeros, ones, zeros, index=5).tolist() == pytest.approx([1.0] * 2)
    assert next_state(zeros, zeros, ones, index=1, tau=1.0).tolist() == pytest.approx([0.5] * 2)


def blurred(x: Tensor) -> Tensor:
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    taps = (row[:, None] * row).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), taps, stride=2, groups=x.shape[1])


def scores_of(state: dict[str, Tensor], image: Tensor, time: int, ndf: int) -> Tensor:
    """The discriminator by its tensors' names."""
    rates = 10_000.0 ** (-torch.arange(2 * ndf) / (2 * ndf - 1))
    embedding = torch.cat([(time * rates).sin(), (time * rates).cos()])[None]
    for layer in (0, 2):
        name = f"t_embed.main.{layer}"
        embedding = F.leaky_relu(F.linear(embedding, state[f"{name}.weight"], state[f"{name}.bias"]), 0.2)
    for layer in range(4):
        name = f"model_main.{layer}"
        image = F.conv2d(image, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"], padding=1)
        shift = F.linear(embedding, state[f"{name}.dense.weight"], state[f"{name}.dense.bias"])
        image = image + shift[..., None, None]
        image = F.leaky_relu(F.instance_norm(image) if layer else image, 0.2)
        image = blurred(image) if layer < 3 else image
    return F.conv2d(image, state["final_conv.weight"], state["final_conv.bias"], padding=1)


@pytest.mark.parametrize("channels", [3, 12])
def test_the_discriminator_is_what_its_names_say(channels: int) -> None:
    network = TimedDiscriminator(channels, ndf=4)
    image = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = [network(image, torch.tensor([time])) for time in (0, 3)]
    expected = scores_of(network.state_dict(), image, 3, 4)
    torch.testing.assert_close(seen[1], expected, rtol=1e-4, atol=1e-5)
    assert seen[1].shape == (2, 1, 2, 2)
    assert (seen[0] - seen[1]).abs().max() > 1e-3
