"""VSAIT's training (Theiss et al., "Unpaired image translation via vector symbolic architectures", ECCV 2022).

Images are compared as hypervectors, random projections of VGG-19's features of 16-pixel patches. The generator is to
make images whose hypervectors, bound with what carries the source over to the target, are the source's own, and which
the discriminator takes for the target's. Then the discriminator learns, from images that the updated generator makes
again. Losses, rates and order are the released program's.

What is frozen is looked at once: the released program takes the source's hypervectors three times and the
translation's twice in a step, with the same result.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from d2r_fast.translation.gan.vsait import VsaitGenerator
from d2r_fast.translation.training.config import TransferRecipe
from d2r_fast.translation.training.hypervector_discriminator import (
    HypervectorDiscriminator,
    hinge_fake,
    hinge_real,
)
from d2r_fast.translation.training.hypervector_mapping import HypervectorMapping
from d2r_fast.translation.training.hypervectors import NUM_DIMENSIONS, HypervectorProjection
from d2r_fast.translation.training.initial import draw_weights
from d2r_fast.translation.training.layout import lay_out
from d2r_fast.translation.training.objective import Objective, adam, require_gradients, set_rate
from d2r_fast.translation.training.seeds import seed_of
from d2r_fast.translation.training.vgg import Vgg19, read_vgg19

GENERATOR_RATE, DISCRIMINATOR_RATE = 1e-4, 4e-4
BETAS = (0.0, 0.9)
WEIGHT_DECAY = 1e-4
LAMBDA_GAN, LAMBDA_VSA = 1.0, 10.0
STEPS_PER_HALVING = 100_000
"""Of both learning rates."""
GAIN = 0.2
"""Of Xavier's first weights."""


class VsaitObjective(Objective):
    """Generator and mapping, which share an Adam, and discriminator; VGG-19 and the projection are frozen.

    `step` reports the losses without their weights: vsa (cosine), adv (the generator's adversarial one), G (their
    weighted sum) and D.
    """

    def __init__(
        self, generator: VsaitGenerator, mapping: HypervectorMapping, discriminator: HypervectorDiscriminator,
        vgg: Vgg19, projection: HypervectorProjection, *, lambda_gan: float = LAMBDA_GAN,
        lambda_vsa: float = LAMBDA_VSA, rates: tuple[float, float] = (GENERATOR_RATE, DISCRIMINATOR_RATE),
    ) -> None:  # fmt: skip
        self.generator, self.mapping, self.discriminator = generator, mapping, discriminator
        self.vgg, self.projection = vgg, projection
        self._lambda_gan, self._lambda_vsa = lambda_gan, lambda_vsa
        self._rates = dict(zip(("generator", "discriminator"), rates, strict=True))
        modules = {"generator": generator, "mapping": mapping, "discriminator": discriminator}
        moved = {"generator": [*generator.parameters(), *mapping.parameters()],
                 "discriminator": [*discriminator.parameters()]}  # fmt: skip
        super().__init__(
            modules,
            {
                name: adam(listed, self._rates[name], betas=BETAS, weight_decay=WEIGHT_DECAY)
                for name, listed in moved.items()
            },
        )

    @classmethod
    def check(cls, recipe: TransferRecipe) -> None:
        _read_vgg(recipe)

    @classmethod
    def build(
        cls, recipe: TransferRecipe, *, seed: int, device: torch.device, example: tuple[Tensor, Tensor]
    ) -> Self:
        vgg = _read_vgg(recipe)
        length = recipe.hypervector_dim or NUM_DIMENSIONS
        generator = VsaitGenerator(recipe.ngf, recipe.num_blocks)
        discriminator = HypervectorDiscriminator(length)
        draw_weights(generator, seed=seed_of(seed, "weights of the generator"), gain=GAIN)
        draw_weights(discriminator, seed=seed_of(seed, "weights of the discriminator"), gain=GAIN)
        mapping = HypervectorMapping(length, seed=seed_of(seed, "weights of the mapping"))
        projection = HypervectorProjection(
            vgg.channels, num_dimensions=length, seed=seed_of(seed, "directions of the projection")
        )
        for network in (generator, mapping, discriminator, vgg, projection):
            lay_out(network, device)
        return cls(
            generator, mapping, discriminator, vgg, projection,
            lambda_gan=_given(recipe.lambda_gan, LAMBDA_GAN), lambda_vsa=_given(recipe.lambda_vsa, LAMBDA_VSA),
            rates=(_given(recipe.learning_rate, GENERATOR_RATE),
                   _given(recipe.discriminator_learning_rate, DISCRIMINATOR_RATE)),
        )  # fmt: skip

    def step(self, source: Tensor, target: Tensor, *, draws: torch.Generator) -> dict[str, Tensor]:
        """As the interface says; nothing is drawn."""
        with torch.no_grad():
            of_source, of_target = self._hypervectors(torch.cat((source, target))).chunk(2)
        losses = self._train_generator(source, of_source)
        return losses | self._train_discriminator(source, of_source, of_target)

    def set_learning_rates(self, step: int, *, num_steps: int) -> None:
        for name, optimiser in self.optimisers.items():
            set_rate(optimiser, self._rates[name] * 0.5 ** (step // STEPS_PER_HALVING))

    @torch.no_grad()
    def translate(self, source: Tensor, *, draws: torch.Generator) -> Tensor:
        translated: Tensor = self.generator(source)
        return translated

    def _hypervectors(self, images: Tensor) -> Tensor:
        """(B * H // 16 * W // 16, dimensions), the patches of the first image first."""
        hypervectors: Tensor = self.projection(self.vgg(images))
        return hypervectors

    def _train_generator(self, source: Tensor, of_source: Tensor) -> dict[str, Tensor]:
        """The mapping learns from the discriminator alone: the cosine loss takes what it gives as given."""
        require_gradients(False, self.discriminator)
        of_fake = self._hypervectors(self.generator(source))
        carried = self.mapping(of_source)
        cosine = 1 - F.cosine_similarity(of_fake * carried.detach(), of_source, dim=1).mean()
        fake, mapped = self.discriminator(torch.cat((of_fake, of_source * carried))).chunk(2)
        adversarial = -(fake.mean() + mapped.mean()) / 2
        loss = self._lambda_gan * adversarial + self._lambda_vsa * cosine
        self._update(loss, "generator")
        return {"vsa": cosine.detach(), "adv": adversarial.detach(), "G": loss.detach()}

    def _train_discriminator(self, source: Tensor, of_source: Tensor, of_target: Tensor) -> dict[str, Tensor]:
        """From what the updated generator and mapping make."""
        require_gradients(True, self.discriminator)
        with torch.no_grad():
            of_fake = self._hypervectors(self.generator(source))
            mapped = of_source * self.mapping(of_source)
        scores = self.discriminator(torch.cat((of_fake, mapped, of_target))).chunk(3)
        loss = (hinge_fake(scores[0]) + hinge_fake(scores[1]) + hinge_real(scores[2])) / 3
        self._update(loss, "discriminator")
        return {"D": loss.detach()}

    def _update(self, loss: Tensor, name: str) -> None:
        self.optimisers[name].zero_grad()
        torch.autograd.backward(loss)
        self.optimisers[name].step()


def _read_vgg(recipe: TransferRecipe) -> Vgg19:
    assert recipe.vgg is not None, "the recipe was checked"
    return read_vgg19(recipe.vgg)


def _given(value: float | None, published: float) -> float:
    return published if value is None else value
