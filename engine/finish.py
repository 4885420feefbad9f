"""From clean latents to encoded crops: decode, detect, judge, (restore,) align, recognise, encode.

The same look at an image's predicted latents half-way tells early whether it is going to be its identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.accept import judge
from d2r_fast.engine.align import align
from d2r_fast.engine.clock import Clock
from d2r_fast.engine.config import Recipe
from d2r_fast.engine.detect import Detector, Faces
from d2r_fast.engine.embed import Embedder
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.person import Person
from d2r_fast.engine.plan import Job, normalise
from d2r_fast.engine.restore import Restorer
from d2r_fast.engine.rows import ImageRow
from d2r_fast.engine.shard import describe
from d2r_fast.engine.write import encode

Task = tuple[Job, Person]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a drawn image: its row, and its encoded crop or the reason why there is none."""

    row: ImageRow
    image: bytes | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """Images uint8 (N,H,W,3), what the detector found in each, and why it is not usable, if it is not."""

    images: torch.Tensor
    faces: list[Faces]
    reasons: list[str | None]

    @property
    def places(self) -> list[int]:
        """Of the usable ones."""
        return [place for place, reason in enumerate(self.reasons) if reason is None]


@dataclass(frozen=True, slots=True)
class _Crops:
    """Aligned faces (n,112,112,3), the faces they were cut out by, their unit embeddings (n,D), which are any
    good (n,), and their places in the batch."""

    crops: NDArray[np.uint8]
    faces: list[Faces]
    embeddings: NDArray[np.float64]
    known: NDArray[np.bool_]
    places: list[int]


@dataclass(frozen=True)
class Finisher:
    """What latents are finished with, opened once per run."""

    generator: Arc2FaceGenerator
    detector: Detector
    embedder: Embedder
    recipe: Recipe
    clock: Clock
    restorer: Restorer | None = None

    def finish(self, tasks: Sequence[Task], latents: torch.Tensor) -> list[Outcome]:
        """What images came out of clean latents (N, 4, h, w), one outcome per task."""
        seen = self._look(latents)
        if self.restorer is not None:
            seen = self._restore(seen, self.restorer)
        found = self._recognise(seen)
        outcomes = [
            Outcome(describe(job, person), None, reason)
            for (job, person), reason in zip(tasks, seen.reasons, strict=True)
        ]
        with self.clock("finish"):
            for at, place in enumerate(found.places):
                outcomes[place] = self._accept(tasks[place], found, at)
        return outcomes

    def resemblance(self, tasks: Sequence[Task], latents: torch.Tensor) -> list[float]:
        """Cosine of what predicted latents (N, 4, h, w) show and the face to be drawn; -1 where there is none."""
        found = self._recognise(self._look(latents))
        cosines = [-1.0] * len(tasks)
        for at, place in enumerate(found.places):
            if found.known[at]:
                job, person = tasks[place]
                cosines[place] = float(found.embeddings[at] @ person.latents[job.latent])
        return cosines

    def _look(self, latents: torch.Tensor) -> _Seen:
        """The images of these latents."""
        with self.clock("vae"):
            images, finite = self.generator.decode(latents)
            ok = finite.tolist()  # waits for the device
        with self.clock("detect"):
            found = self.detector(images)
        return _Seen(
            images, found, [judge(faces, finite=good) for faces, good in zip(found, ok, strict=True)]
        )

    def _restore(self, seen: _Seen, restorer: Restorer) -> _Seen:
        """The same with the usable images restored."""
        places = seen.places
        if not places:
            return seen
        with self.clock("restore"):
            restored, finite = restorer(seen.images[places])
            images, reasons = seen.images.clone(), list(seen.reasons)
            images[places] = restored
            for place, good in zip(places, finite.tolist(), strict=True):
                reasons[place] = judge(seen.faces[place], finite=good)
        return _Seen(images, seen.faces, reasons)

    def _recognise(self, seen: _Seen) -> _Crops:
        """The crops of the usable images."""
        with self.clock("finish"):
            return self._crop(seen.images, seen.faces, seen.places)

    def _crop(self, images: torch.Tensor, found: list[Faces], places: list[int]) -> _Crops:
        faces = [found[place] for place in places]
        if not faces:
            empty = np.zeros((0, self.embedder.recogniser.embedding_dim))
            return _Crops(np.zeros((0, 112, 112, 3), np.uint8), [], empty, np.zeros(0, bool), [])
        landmarks = torch.from_numpy(np.stack([face.landmarks[0] for face in faces]))
        crops = align(images[places], landmarks, size=112).cpu().numpy()
        embeddings, known = self.embedder.embed(list(crops))
        return _Crops(crops, faces, normalise(np.where(known[:, None], embeddings, 0)), known, places)

    def _accept(self, task: Task, found: _Crops, at: int) -> Outcome:
        job, person = task
        face, embedding = found.faces[at], found.embeddings[at]
        known = bool(found.known[at])
        row = replace(
            describe(job, person), status="written", score=float(face.scores[0]), box=face.boxes[0].tolist(),
            landmarks=face.landmarks[0].reshape(-1).tolist(),
            cos_prototype=float(embedding @ person.prototype) if known else None,
            cos_latent=float(embedding @ person.latents[job.latent]) if known else None,
        )  # fmt: skip
        image = encode(found.crops[at], self.recipe.image_format, self.recipe.jpeg_quality)
        return Outcome(row, image, None)
