"""Make one shard: its identities' renders in, accepted crops and a record of everything wanted out.

A shard is a pure function of (recipe, models, source, the identities in it). Networks run on fixed batches of
whatever images are still pending, first tries and retries alike; every random number is keyed by the image.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.accept import judge
from d2r_fast.engine.align import align
from d2r_fast.engine.config import Recipe
from d2r_fast.engine.detect import Detector, Faces
from d2r_fast.engine.embed import Embedder, embed_images
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.marker import image_key
from d2r_fast.engine.plan import Job, choose, make_latents, mix, normalise, prototype, spread
from d2r_fast.engine.rows import IdentityRow, ImageRow, Problem
from d2r_fast.engine.source import FolderSource, Identity
from d2r_fast.engine.write import encode
from d2r_fast.kernels.noise import identity_key, normal


@dataclass(frozen=True)
class Stages:
    """What a shard is made with: opened once per run, shared by all shards."""

    source: FolderSource
    embedder: Embedder
    generator: Arc2FaceGenerator
    detector: Detector
    offset: torch.Tensor | None
    recipe: Recipe
    batch_size: int
    pool: ThreadPoolExecutor


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


@dataclass
class ShardContent:
    """What goes into a shard: rows in the order in which their fate was known, encoded crops by key."""

    rows: list[ImageRow] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    identities: list[IdentityRow] = field(default_factory=list)
    errors: list[Problem] = field(default_factory=list)

    def sorted_rows(self) -> list[ImageRow]:
        """Rows in the order of (label, image), whatever the order they were made in."""
        return sorted(self.rows, key=lambda row: (row.label, row.image))


@dataclass
class Clock:
    """Seconds spent in each stage."""

    stage_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else a stage's work is charged to the next that waits for it
        self.stage_s[stage] = self.stage_s.get(stage, 0.0) + time.perf_counter() - started_s

    def rounded(self) -> dict[str, float]:
        """Seconds by stage, to the millisecond."""
        return {stage: round(seconds, 3) for stage, seconds in self.stage_s.items()}


def make_shard(
    members: list[tuple[int, Identity]], stages: Stages, clock: Clock, report: Callable[[ImageRow], None]
) -> ShardContent:
    """Everything a shard holds, in memory: some kB per image.

    Args:
        members: (label, identity) of the shard's identities, in order.
        stages: opened once per run.
        clock: where the time goes.
        report: told of each image as its fate is known.
    """
    content = ShardContent()
    people: dict[int, Person] = {}
    with clock("embed"):
        for label, identity in members:
            person = meet(label, identity, stages, content)
            if person is None:
                fail_all(label, identity, stages.recipe, content, report)
            else:
                people[label] = person
    pending = deque(job for person in people.values() for job in person.jobs(stages.recipe))
    while pending:
        batch = [pending.popleft() for _ in range(min(stages.batch_size, len(pending)))]
        images, finite = draw(batch, people, stages, clock)
        with clock("detect"):
            found = stages.detector(images)
        reasons = [judge(faces, finite=bool(ok)) for faces, ok in zip(found, finite, strict=True)]
        with clock("finish"):
            for row in keep(batch, images, found, reasons, people, stages, content):
                report(row)
        for job, reason in zip(batch, reasons, strict=True):
            if reason is not None and job.attempt + 1 < stages.recipe.attempts:
                pending.append(job.again())
            elif reason is not None:
                report(reject(job, reason, people, content))
    return content


def meet(label: int, identity: Identity, stages: Stages, content: ShardContent) -> Person | None:
    """Choose an identity's renders, embed them and plan its latents. None, and why, if that cannot be done."""
    recipe = stages.recipe
    key = identity_key(recipe.seed, identity.name)
    names, embeddings = embed_sources(identity, key, stages, content)
    wanted = recipe.source_images_per_identity
    centre = prototype(embeddings) if len(names) >= wanted else None
    if centre is None:
        reason = (
            f"{len(names)} usable of {len(identity.images)} images, {wanted} needed (source_images_per_identity)"
            if len(names) < wanted
            else "its embeddings cancel out: a prototype of norm zero"
        )
        content.identities.append(
            IdentityRow(
                label=label, identity=identity.name, sources=names[:wanted], status="failed", reason=reason
            )
        )
        content.errors.append(
            Problem(
                stage="plan",
                identity=identity.name,
                key=identity.name,
                error="UnusableIdentity",
                reason=reason,
            )
        )
        return None
    row = IdentityRow(
        label=label, identity=identity.name, sources=names[:wanted], status="used",
        prototype=centre.astype(np.float32).tolist(),
    )  # fmt: skip
    content.identities.append(row)
    t = mix(wanted, key, recipe.alpha)
    return Person(
        label, identity.name, key, names[:wanted], centre, t, make_latents(centre, embeddings[:wanted], t)
    )


def embed_sources(
    identity: Identity, key: int, stages: Stages, content: ShardContent
) -> tuple[list[str], NDArray[np.float32]]:
    """Names and embeddings (n,D) of an identity's renders in their random order: as many as the recipe takes.

    An unusable render is recorded, and the next in the order takes its place.
    """
    order = deque(identity.images[index] for index in choose(len(identity.images), key))
    goal = len(order) if stages.recipe.prototype == "all" else stages.recipe.source_images_per_identity
    names: list[str] = []
    embeddings = np.zeros((0, stages.embedder.recogniser.embedding_dim), np.float32)
    while len(names) < goal and order:
        chunk = tuple(order.popleft() for _ in range(min(goal - len(names), len(order))))
        used, rows, failed = embed_images(chunk, stages.source, stages.embedder, stages.pool)
        names += [image.name for image in used]
        embeddings = np.concatenate([embeddings, rows])
        content.errors += failed
    return names, embeddings


def draw(
    batch: list[Job], people: dict[int, Person], stages: Stages, clock: Clock
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate a batch: images uint8 (N,H,W,3) RGB, and whether each is finite (N,)."""
    latents = np.stack([people[job.label].latents[job.latent] for job in batch])
    generator, recipe = stages.generator, stages.recipe

    def noise(step: int) -> torch.Tensor:
        keys = torch.tensor([[job.identity_key, job.image, job.attempt, step] for job in batch])
        return normal(keys, generator.latent_shape)

    with clock("condition"):
        context = generator.condition(torch.from_numpy(latents), stages.offset)
    with clock("denoise"):
        denoised = generator.denoise(context, noise, steps=recipe.steps, guidance=recipe.guidance)
    with clock("vae"):
        return generator.decode(denoised)


def keep(
    batch: list[Job], images: torch.Tensor, found: list[Faces], reasons: list[str | None],
    people: dict[int, Person], stages: Stages, content: ShardContent,
) -> list[ImageRow]:  # fmt: skip
    """Align, score and encode the accepted images of a batch."""
    accepted = [place for place, reason in enumerate(reasons) if reason is None]
    if not accepted:
        return []
    landmarks = torch.from_numpy(np.stack([found[place].landmarks[0] for place in accepted]))
    crops = align(images[accepted], landmarks, size=112).cpu().numpy()
    embeddings, usable = stages.embedder.embed(list(crops))
    unit = normalise(np.where(usable[:, None], embeddings, 0))
    rows = []
    for place, crop, embedding, known in zip(accepted, crops, unit, usable, strict=True):
        job, faces = batch[place], found[place]
        person = people[job.label]
        row = replace(
            describe(job, person), status="written", score=float(faces.scores[0]), box=faces.boxes[0].tolist(),
            landmarks=faces.landmarks[0].reshape(-1).tolist(),
            cos_prototype=float(embedding @ person.prototype) if known else None,
            cos_latent=float(embedding @ person.latents[job.latent]) if known else None,
        )  # fmt: skip
        content.rows.append(row)
        content.images[job.key] = encode(crop, stages.recipe.image_format, stages.recipe.jpeg_quality)
        rows.append(row)
    return rows


def reject(job: Job, reason: str, people: dict[int, Person], content: ShardContent) -> ImageRow:
    """Record an image that no attempt could make."""
    row = replace(describe(job, people[job.label]), reason=reason)
    content.rows.append(row)
    content.errors.append(
        Problem(stage="accept", identity=job.identity, key=job.key, error="Rejected", reason=reason)
    )
    return row


def fail_all(
    label: int, identity: Identity, recipe: Recipe, content: ShardContent, report: Callable[[ImageRow], None]
) -> None:
    """Record every wanted image of an identity that cannot be made."""
    reason = content.identities[-1].reason
    for image in range(recipe.images_per_identity):
        row = ImageRow(
            key=image_key(label, image),
            label=label,
            identity=identity.name,
            image=image,
            status="failed",
            reason=reason,
        )
        content.rows.append(row)
        report(row)


def describe(job: Job, person: Person) -> ImageRow:
    """The record of an image so far: which latent it was drawn from, how often, and not written."""
    return ImageRow(
        key=job.key, label=job.label, identity=job.identity, image=job.image, status="rejected",
        source=person.sources[job.latent], latent=job.latent, t=float(person.t[job.latent]), attempts=job.attempt + 1,
    )  # fmt: skip
