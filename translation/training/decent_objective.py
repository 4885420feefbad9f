"""DECENT's training (Xie, Ho, Zhang, "Unsupervised image-to-image translation with density changing regularization",
NeurIPS 2022).

A generator that makes target images of source images should change the density of all patches of an image by the same
factor. Two estimators of the densities of the generator's own features, one for each side, say by how much each patch
changes; the variance of that is a loss. The others are adversarial (least squares) and the L1 distance of a translated
target image to itself. In the released program's order: the density estimators, the discriminator, and the generator,
which is judged by the estimators' running means.

Passes that do not depend on each other run as one; every layer looks at one image at a time, so this changes nothing
but the rounding.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2r_fast.translation.gan.blocks import run_layers
from d2r_fast.translation.gan.decent import DecentGenerator
from d2r_fast.translation.training.bnaf import PatchDensities
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
from d2r_fast.translation.training.patch_discriminator import PatchDiscriminator
from d2r_fast.translation.training.polyak_adam import PolyakAdam
from d2r_fast.translation.training.seeds import seed_of

BETAS = (0.5, 0.999)
CLIP = 0.1
"""Largest L2 norm of the gradient of all flows of one side."""
PUBLISHED: dict[str, Any] = {
    "learning_rate": 2e-4, "flow_learning_rate": 1e-3, "lambda_gan": 1.0, "lambda_idt": 10.0, "lambda_var": 0.01,
    "var_all": False, "num_patches": 256,
}  # fmt: skip

Places = list[Tensor]
"""For each layer the patches to look at, int64 (P,) in 0 to H * W - 1."""


class DecentObjective(Objective):
    """Generator, discriminator and the density estimators of both sides.

    `step` reports the released program's losses by its names: nll_A, nll_B, D_fake, D_real, G_GAN, idt, var, G.

    Args:
        generator, discriminator, flows_a, flows_b: on their device.
        layers: of the generator that the flows look at.
        recipe: weights and rates; None is the published value.
    """

    def __init__(
        self, generator: DecentGenerator, discriminator: PatchDiscriminator, flows_a: PatchDensities,
        flows_b: PatchDensities, *, layers: Sequence[int], recipe: TransferRecipe,
    ) -> None:  # fmt: skip
        self.generator, self.discriminator = generator, discriminator
        self.flows_a, self.flows_b = flows_a, flows_b
        self.layers, self.epochs = tuple(layers), recipe.epochs_of_two_parts
        self.settings = {
            name: value if (given := getattr(recipe, name)) is None else given
            for name, value in PUBLISHED.items()
        }
        rate = self.settings["learning_rate"]
        self.rates = {
            "generator": rate,
            "discriminator": recipe.discriminator_learning_rate or rate,
            "flows": self.settings["flow_learning_rate"],
        }
        self.flow_optimiser = PolyakAdam(
            [*flows_a.parameters(), *flows_b.parameters()], lr=self.rates["flows"]
        )
        super().__init__(
            {"generator": generator, "discriminator": discriminator, "flows_a": flows_a, "flows_b": flows_b},
            {
                "generator": adam(generator.parameters(), rate, betas=BETAS),
                "discriminator": adam(discriminator.parameters(), self.rates["discriminator"], betas=BETAS),
                "flows": self.flow_optimiser,
            },
        )

    @classmethod
    def build(
        cls, recipe: TransferRecipe, *, seed: int, device: torch.device, example: tuple[Tensor, Tensor]
    ) -> Self:
        """As the interface says; of the example, which the flows get their sizes from, the pixels do not matter."""
        generator = DecentGenerator(recipe.ngf, recipe.num_blocks)
        discriminator = PatchDiscriminator(ndf=recipe.ndf)
        draw_weights(generator, seed=seed_of(seed, "generator"))
        draw_weights(discriminator, seed=seed_of(seed, "discriminator"))
        layers = feature_layers(recipe.num_blocks)
        with torch.no_grad():
            channels = [feature.shape[1] for feature in generator.features(example[0][:1], layers)]
        flows = [PatchDensities(channels, seed=seed_of(seed, f"flows {side}")) for side in "ab"]
        for network in (generator, discriminator, *flows):
            lay_out(network, device)
        return cls(generator, discriminator, *flows, layers=layers, recipe=recipe)

    def step(self, source: Tensor, target: Tensor, *, draws: torch.Generator) -> dict[str, Tensor]:
        images, features = run_layers(self.generator.model, torch.cat((source, target)), self.layers)
        fake, same = torch.split(images.float(), [len(source), len(target)])
        features_a = [feature[: len(source)].detach() for feature in features]
        features_b = [feature[len(source) :].detach() for feature in features]
        losses = self._train_flows(features_a, features_b, draws)
        losses |= self._train_discriminator(fake.detach(), target)
        return losses | self._train_generator(fake, same, target, features_a, draws)

    def set_learning_rates(self, step: int, *, num_steps: int) -> None:
        share = linear_decay(step, num_steps=num_steps, epochs=self.epochs)
        for name, optimiser in self.optimisers.items():
            set_rate(optimiser, self.rates[name] * share)

    @torch.no_grad()
    def translate(self, source: Tensor, *, draws: torch.Generator) -> Tensor:
        translated: Tensor = self.generator(source).float()
        return translated

    @property
    def _looks_at_densities(self) -> bool:
        return bool(self.settings["lambda_var"])

    def _train_flows(
        self, features_a: list[Tensor], features_b: list[Tensor], draws: torch.Generator
    ) -> dict[str, Tensor]:
        """Fits the estimators to this step's features; their weight 0 leaves them out."""
        if not self._looks_at_densities:
            return {}
        require_gradients(True, self.flows_a, self.flows_b)
        nll_a = _surprise(self.flows_a(features_a, self._draw_places(features_a, draws)))
        nll_b = _surprise(self.flows_b(features_b, self._draw_places(features_b, draws)))
        self.flow_optimiser.zero_grad()
        torch.autograd.backward((nll_a + nll_b) / len(self.layers))
        for flows in (self.flows_a, self.flows_b):
            nn.utils.clip_grad_norm_(flows.parameters(), CLIP)
        self.flow_optimiser.step()
        return {"nll_A": nll_a.detach(), "nll_B": nll_b.detach()}

    def _train_discriminator(self, fake: Tensor, target: Tensor) -> dict[str, Tensor]:
        require_gradients(True, self.discriminator)
        scores = self.discriminator(torch.cat((fake, target))).float()
        of_fake, of_real = torch.split(scores, [len(fake), len(target)])
        on_fake, on_real = of_fake.square().mean(), (of_real - 1).square().mean()
        self._update("discriminator", (on_fake + on_real) * 0.5)
        return {"D_fake": on_fake.detach(), "D_real": on_real.detach()}

    def _train_generator(
        self, fake: Tensor, same: Tensor, target: Tensor, features_a: list[Tensor], draws: torch.Generator
    ) -> dict[str, Tensor]:
        require_gradients(False, self.discriminator, self.flows_a, self.flows_b)
        settings = self.settings
        losses = {
            "G_GAN": (self.discriminator(fake).float() - 1).square().mean() * settings["lambda_gan"],
            "idt": F.l1_loss(same, target) * settings["lambda_idt"],
        }
        total = losses["G_GAN"] + losses["idt"]
        if self._looks_at_densities:
            losses["var"] = self._density_change(fake, features_a, draws)
            total = total + settings["lambda_var"] * losses["var"]
        self._update("generator", total)
        return {name: loss.detach() for name, loss in (losses | {"G": total}).items()}

    def _density_change(self, fake: Tensor, features_a: list[Tensor], draws: torch.Generator) -> Tensor:
        """Variance of the change of patches' log densities, in bits for each dimension, mean over the layers."""
        features = self.generator.features(fake, self.layers)
        places = self._draw_places(features, draws)
        self.flow_optimiser.swap()
        with torch.no_grad():
            before = self.flows_a(features_a, places)
        after = self.flows_b(features, places)
        self.flow_optimiser.swap()
        variances = [
            self._variance((old - new) / (feature.shape[1] * math.log(2)))
            for old, new, feature in zip(before, after, features, strict=True)
        ]
        return torch.stack(variances).mean()

    def _variance(self, changes: Tensor) -> Tensor:
        return changes.var() if self.settings["var_all"] else changes.var(dim=1).mean()

    def _draw_places(self, features: Sequence[Tensor], draws: torch.Generator) -> Places:
        """Different patches of every layer, the same in all images of the batch."""
        num: int = self.settings["num_patches"]
        device = features[0].device
        return [
            torch.randperm(feature[0, 0].numel(), generator=draws)[:num].to(device) for feature in features
        ]

    def _update(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad()
        torch.autograd.backward(loss)
        self.optimisers[name].step()


def _surprise(log_probs: list[Tensor]) -> Tensor:
    """Negative log likelihood: mean over patches, sum over layers."""
    return -torch.stack([each.mean() for each in log_probs]).sum()
