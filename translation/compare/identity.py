"""What a translation leaves of who is shown, by a recogniser's embeddings before and after."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r_fast.recognition.embedder import Embedder
from d2r_fast.recognition.evaluation.crops import to_side

Unit = NDArray[np.float32]
"""Embeddings (N, D) of length 1."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Mean cosines of pictures: `after` is translated against untranslated, `before` untranslated against itself."""

    own: float
    """Of every translated picture and its own source. Untranslated it would be 1."""
    genuine_after: float | None
    """Of pictures and other pictures of the same person; None where nobody has two."""
    genuine_before: float | None
    impostor_after: float | None
    """Of pictures of different people; None where there is one person."""
    impostor_before: float | None

    @property
    def share(self) -> float | None:
        """Of the cosine to other pictures of the same person, what is left of the untranslated value."""
        if self.genuine_after is None or self.genuine_before is None or self.genuine_before <= 0:
            return None
        return self.genuine_after / self.genuine_before

    @property
    def separation(self) -> float | None:
        """Of the distance of genuine from impostor cosines, what is left: a translation that makes all faces alike
        keeps genuine cosines and loses this."""
        match self:
            case Kept(_, float(genuine), float(genuine_before), float(impostor), float(impostor_before)):
                before = genuine_before - impostor_before
                return (genuine - impostor) / before if before > 0 else None
        return None


def compare_identity(source: Unit, translated: Unit, labels: Sequence[str]) -> Kept:
    """Embeddings of the same pictures before and after; `labels` say who is in each.

    Raises:
        ValueError: the sets differ in shape.
    """
    if source.shape != translated.shape or len(labels) != len(source):
        raise ValueError(f"embeddings {source.shape} and {translated.shape} of {len(labels)} pictures")
    names = np.asarray(labels)
    same = names[:, None] == names
    genuine, impostor = same & ~np.eye(len(names), dtype=bool), ~same
    after, before = translated @ source.T, source @ source.T
    return Kept(
        own=float(np.diag(after).mean()),
        genuine_after=_mean(after, genuine), genuine_before=_mean(before, genuine),
        impostor_after=_mean(after, impostor), impostor_before=_mean(before, impostor),
    )  # fmt: skip


def embed_pictures(embedder: Embedder, pictures: NDArray[np.uint8]) -> Unit:
    """Embeddings of square pictures uint8 (N, H, H, 3) RGB, resized to what the recogniser takes, of length 1.

    Raises:
        DecodeError: they are not square.
    """
    side = embedder.size[0]
    found = embedder(np.stack([to_side(picture, side=side) for picture in pictures]))
    unit: Unit = found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
    return unit


def _mean(cosines: NDArray[np.float32], where: NDArray[np.bool_]) -> float | None:
    return float(cosines[where].mean()) if where.any() else None
