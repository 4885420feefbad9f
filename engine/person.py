"""Meet an identity: choose its renders, embed them, and plan the latents that its images are drawn from."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.config import Recipe
from d2r_fast.engine.embed import Embedder, embed_images
from d2r_fast.engine.plan import Job, choose, make_latents, mix, prototype, spread
from d2r_fast.engine.rows import IdentityRow, Problem
from d2r_fast.engine.source import Identity, Source
from d2r_fast.kernels.noise import identity_key


@dataclass(frozen=True)
class Person:
    """An identity that can be made: its prototype (D,), its latents (L,D) and where they came from."""

    label: int
    name: str
    key: int
    sources: list[str]
    prototype: NDArray[np.float64]
    t: NDArray[np.float64]
    latents: NDArray[np.float32]

    def jobs(self, recipe: Recipe) -> list[Job]:
        """Its wanted images."""
        latents = spread(recipe.images_per_identity, len(self.latents), recipe.images_per_latent)
        return [Job(self.label, self.name, self.key, image, latent) for image, latent in enumerate(latents)]


@dataclass(frozen=True)
class Meeting:
    """What came of meeting an identity; `person` is None where it cannot be made, and `row` says why."""

    row: IdentityRow
    problems: list[Problem]
    person: Person | None


@dataclass(frozen=True)
class Host:
    """What identities are met with, opened once per run."""

    source: Source
    embedder: Embedder
    recipe: Recipe
    pool: ThreadPoolExecutor
    """Decodes renders."""

    def meet(self, label: int, identity: Identity) -> Meeting:
        """Choose an identity's renders, embed them and plan its latents."""
        recipe = self.recipe
        key = identity_key(recipe.seed, identity.name)
        names, embeddings, problems = self._embed(identity, key)
        wanted = recipe.source_images_per_identity
        sources = names[:wanted]
        centre = prototype(embeddings) if len(names) >= wanted else None
        if centre is None:
            reason = (
                f"{len(names)} usable of {len(identity.images)} images, {wanted} needed (source_images_per_identity)"
                if len(names) < wanted
                else "its embeddings cancel out: a prototype of norm zero"
            )
            row = IdentityRow(
                label=label, identity=identity.name, sources=sources, status="failed", reason=reason
            )
            unusable = Problem(
                stage="plan", identity=identity.name, key=identity.name, error="UnusableIdentity", reason=reason
            )  # fmt: skip
            return Meeting(row, [*problems, unusable], None)
        row = IdentityRow(
            label=label, identity=identity.name, sources=sources, status="used",
            prototype=centre.astype(np.float32).tolist(),
        )  # fmt: skip
        t = mix(wanted, key, recipe.alpha)
        latents = make_latents(centre, embeddings[:wanted], t)
        return Meeting(row, problems, Person(label, identity.name, key, sources, centre, t, latents))

    def _embed(self, identity: Identity, key: int) -> tuple[list[str], NDArray[np.float32], list[Problem]]:
        """Names and embeddings (n,D) of an identity's renders in random order: as many as the recipe takes.

        An unusable render is recorded, and the next in the order takes its place.
        """
        order = deque(identity.images[index] for index in choose(len(identity.images), key))
        goal = len(order) if self.recipe.prototype == "all" else self.recipe.source_images_per_identity
        names: list[str] = []
        problems: list[Problem] = []
        embeddings = np.zeros((0, self.embedder.recogniser.embedding_dim), np.float32)
        while len(names) < goal and order:
            chunk = tuple(order.popleft() for _ in range(min(goal - len(names), len(order))))
            used, rows, failed = embed_images(chunk, self.source, self.embedder, self.pool)
            names += [image.name for image in used]
            embeddings = np.concatenate([embeddings, rows])
            problems += failed
        return names, embeddings, problems
