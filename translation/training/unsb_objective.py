"""UNSB's training (Kim et al., "Unpaired image-to-image translation via neural Schroedinger bridge", ICLR 2024).

A step picks a time of the bridge, walks there without gradient from two source batches and the target batch, and
asks for the image from there. Then, in the released program's order: the discriminator, the energy, and the generator
together with the projection of its patches. Weights, rates and draws are the released program's, with lambda_SB 1 as
in the command of its paper (its code's default is 0.1).

What the released program computes and throws away is left out: the predictions at the chosen time that end its walk,
gradients of keys that it detaches, and of a discriminator that is not being trained. Passes that do not depend on each
other run as one; every layer looks at one image at a time, so this changes nothing but the rounding.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from d2r_fast.translation.gan.schroedinger_bridge import NUM_TIMES, TAU, next_state
from d2r_fast.translation.gan.unsb import UnsbGenerator
from d2r_fast.translation.training.config import TransferRecipe
from d2r_fast.translation.training.feature_layers import feature_layers
from d2r_fast.translation.training.initial import draw_weights
from d2r_fast.translation.training.layout import lay_out
from d2r_fast.translation.training.objective import (
    Objective,
    adam,
    linear_decay,
    require_gradients,
    set_rate,
)
from d2r_fast.translation.training.patch_nce import patch_nce
from d2r_fast.translation.training.patch_sampler import PatchSampler, draw_places
from d2r_fast.translation.training.seeds import seed_of
from d2r_fast.translation.training.timed_discriminator import TimedDiscriminator

RATE = 2e-4
BETAS = (0.5, 0.999)
NUM_PATCHES = 256


@dataclass(frozen=True)
class Weights:
    """Of the generator's losses: adversarial, bridge and contrastive."""

    gan: float = 1.0
    sb: float = 1.0
    nce: float = 1.0


@dataclass(frozen=True)
class _Scene:
    """What a step's losses look at; images (B, 3, S, S), B from each of three walks where nothing else is said."""

    source: Tensor
    target: Tensor
    time: Tensor
    """(1,) int64."""
    states: Tensor
    """(3 B, ...): of the source, the target and the other source."""
    images: Tensor
    """(3 B, ...) predicted from them, with gradient."""

    @property
    def fake(self) -> Tensor:
        return self.images.chunk(3)[0]

    @property
    def translated(self) -> Tensor:
        """(2 B, ...): of the source and the target."""
        return self.images[: 2 * len(self.source)]

    def pairs(self, *, detached: bool) -> tuple[Tensor, Tensor]:
        """State and image of the source and of the other source, (B, 6, S, S) each."""
        images = self.images.detach() if detached else self.images
        both = torch.cat((self.states, images), dim=1).chunk(3)
        return both[0], both[2]


class UnsbObjective(Objective):
    """Generator, discriminator, energy and patch projection, each with its Adam.

    `step` reports the losses by the released program's names: G_GAN, D_real, D_fake, G, NCE, SB, NCE_Y, and E.
    """

    SOURCES = 2

    def __init__(
        self, generator: UnsbGenerator, discriminator: TimedDiscriminator, energy: TimedDiscriminator,
        sampler: PatchSampler, *, weights: Weights = Weights(), num_patches: int = NUM_PATCHES,
        rates: tuple[float, float] = (RATE, RATE), epochs: tuple[int, int] = (200, 200),
    ) -> None:  # fmt: skip
        self.generator, self.discriminator, self.energy = generator, discriminator, energy
        self.sampler = sampler
        self._weights, self._num_patches, self._epochs = weights, num_patches, epochs
        modules = {
            "generator": generator, "discriminator": discriminator, "energy": energy, "sampler": sampler,
        }  # fmt: skip
        self._rates = {name: rates[name == "discriminator"] for name in modules}
        optimisers = {
            name: adam(module.parameters(), self._rates[name], betas=BETAS)
            for name, module in modules.items()
        }
        super().__init__(modules, optimisers)

    @classmethod
    def build(
        cls, recipe: TransferRecipe, *, seed: int, device: torch.device, example: tuple[Tensor, Tensor]
    ) -> Self:
        """As the interface says; the example decides shapes alone."""
        generator = UnsbGenerator(recipe.ngf, recipe.num_blocks, intended=bool(recipe.intended))
        discriminator = TimedDiscriminator(3, ndf=recipe.ndf)
        energy = TimedDiscriminator(12, ndf=recipe.ndf)
        sampler = PatchSampler(_feature_channels(generator, example[0][:1]))
        for name, network in {
            "generator": generator,
            "discriminator": discriminator,
            "energy": energy,
            "sampler": sampler,
        }.items():
            draw_weights(network, seed=seed_of(seed, f"weights of the {name}"))
            lay_out(network, device)
        return cls(
            generator,
            discriminator,
            energy,
            sampler,
            weights=_weights_of(recipe),
            num_patches=recipe.num_patches or NUM_PATCHES,
            rates=_rates_of(recipe),
            epochs=recipe.epochs_of_two_parts,
        )

    def step(self, source: Tensor, target: Tensor, *, draws: torch.Generator) -> dict[str, Tensor]:
        scene = self._predict(source, target, draws)
        losses = {**self._train_discriminator(scene), **self._train_energy(scene)}
        return losses | self._train_generator(scene, draws)

    def set_learning_rates(self, step: int, *, num_steps: int) -> None:
        share = linear_decay(step, num_steps=num_steps, epochs=self._epochs)
        for name, optimiser in self.optimisers.items():
            set_rate(optimiser, self._rates[name] * share)

    @torch.no_grad()
    def translate(self, source: Tensor, *, draws: torch.Generator) -> Tensor:
        """The whole bridge: the prediction at its last time."""
        states = self._walk(source, NUM_TIMES - 1, draws)
        return self._ask(states, NUM_TIMES - 1, draws)

    def _predict(self, source: Tensor, target: Tensor, draws: torch.Generator) -> _Scene:
        time = int(torch.randint(NUM_TIMES, (1,), generator=draws))
        first, other = source.chunk(2)
        with torch.no_grad():
            states = self._walk(torch.cat((first, target, other)), time, draws)
        images = self._ask(states, time, draws)
        return _Scene(first, target, torch.full((1,), time, device=source.device), states, images)

    def _walk(self, states: Tensor, time: int, draws: torch.Generator) -> Tensor:
        """From time 0 to `time`; rows are independent."""
        for index in range(time):
            images = self._ask(states, index, draws)
            noise = torch.randn(states.shape, generator=draws).to(states.device)
            states = next_state(states, images, noise, index=index + 1)
        return states

    def _ask(self, states: Tensor, time: int, draws: torch.Generator) -> Tensor:
        images: Tensor = self.generator(
            states, torch.full((1,), time, device=states.device), self._codes(states, draws)
        )
        return images

    def _codes(self, images: Tensor, draws: torch.Generator) -> Tensor:
        return torch.randn(len(images), self.generator.code_length, generator=draws).to(images.device)

    def _train_discriminator(self, scene: _Scene) -> dict[str, Tensor]:
        require_gradients(True, self.discriminator)
        images = torch.cat((scene.fake.detach(), scene.target))
        fake, real = self.discriminator(images, scene.time).chunk(2)
        losses = {"D_real": _to(real, 1.0), "D_fake": _to(fake, 0.0)}
        self._update((losses["D_fake"] + losses["D_real"]) * 0.5, "discriminator")
        return _detached(losses)

    def _train_energy(self, scene: _Scene) -> dict[str, Tensor]:
        require_gradients(True, self.energy)
        own, contrast = self._energies(scene, detached=True)
        loss = -own + contrast + contrast**2
        self._update(loss, "energy")
        return _detached({"E": loss})

    def _train_generator(self, scene: _Scene, draws: torch.Generator) -> dict[str, Tensor]:
        require_gradients(False, self.discriminator, self.energy)
        weights = self._weights
        adversarial = _to(self.discriminator(scene.fake, scene.time), 1.0) * weights.gan
        bridge = self._bridge_loss(scene)
        source, target = self._contrast(scene, draws)
        loss = adversarial + weights.sb * bridge + weights.nce * (source + target) * 0.5
        self._update(loss, "generator", "sampler")
        return _detached({"G_GAN": adversarial, "SB": bridge, "NCE": source, "NCE_Y": target, "G": loss})

    def _energies(self, scene: _Scene, *, detached: bool) -> tuple[Tensor, Tensor]:
        """Mean energy of a pair with itself, and the log-sum-exp of its energies with the other source's pair."""
        pair, other = scene.pairs(detached=detached)
        pairs = torch.cat((torch.cat((pair, pair), dim=1), torch.cat((pair, other), dim=1)))
        own, against = self.energy(pairs, scene.time).chunk(2)
        return own.float().mean(), against.float().flatten().logsumexp(dim=0)

    def _bridge_loss(self, scene: _Scene) -> Tensor:
        """Transport cost less entropy: the less of the bridge is left, the less the entropy weighs."""
        own, contrast = self._energies(scene, detached=False)
        left = (NUM_TIMES - scene.time[0]) / NUM_TIMES
        cost = F.mse_loss(scene.fake, scene.states.chunk(3)[0])
        return TAU * cost - left * TAU * (own - contrast)

    def _contrast(self, scene: _Scene, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Contrastive losses of source and target against their translations, mean over layers and images."""
        originals, batch = torch.cat((scene.source, scene.target)), len(scene.source)
        codes = self._codes(originals, draws)
        queries = self._features(scene.translated, codes)
        places = self._places(queries, batch, draws)
        with torch.no_grad():
            keys = self.sampler(self._features(originals, codes), places)
        pairs = zip(self.sampler(queries, places), keys, strict=True)
        losses = torch.stack([patch_nce(query, key) for query, key in pairs]).mean(dim=0)
        return losses[:batch].mean(), losses[batch:].mean()

    def _features(self, images: Tensor, codes: Tensor) -> list[Tensor]:
        time = torch.zeros(1, dtype=torch.int64, device=images.device)
        return self.generator.features(images, _layers(self.generator), time, codes)

    def _places(self, features: list[Tensor], batch: int, draws: torch.Generator) -> list[Tensor]:
        sizes = [feature[0, 0].numel() for feature in features]
        both = [
            draw_places(sizes, num_images=batch, num_patches=self._num_patches, draws=draws) for _ in range(2)
        ]
        return [torch.cat(layer).to(features[0].device) for layer in zip(*both, strict=True)]

    def _update(self, loss: Tensor, *names: str) -> None:
        for name in names:
            self.optimisers[name].zero_grad()
        torch.autograd.backward(loss)
        for name in names:
            self.optimisers[name].step()


def _layers(generator: UnsbGenerator) -> tuple[int, ...]:
    """Whose patches are compared."""
    return feature_layers(len(generator.model_res))


def _feature_channels(generator: UnsbGenerator, image: Tensor) -> list[int]:
    with torch.no_grad():
        codes = torch.zeros(1, generator.code_length)
        time = torch.zeros(1, dtype=torch.int64)
        return [feature.shape[1] for feature in generator.features(image, _layers(generator), time, codes)]


def _weights_of(recipe: TransferRecipe) -> Weights:
    given = {"gan": recipe.lambda_gan, "sb": recipe.lambda_sb, "nce": recipe.lambda_nce}
    return Weights(**{name: value for name, value in given.items() if value is not None})


def _rates_of(recipe: TransferRecipe) -> tuple[float, float]:
    rate = recipe.learning_rate or RATE
    return rate, recipe.discriminator_learning_rate or rate


def _to(scores: Tensor, label: float) -> Tensor:
    """Least squares to a label."""
    return (scores.float() - label).square().mean()


def _detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss.detach() for name, loss in losses.items()}
