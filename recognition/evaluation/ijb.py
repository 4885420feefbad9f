"""IJB-B and IJB-C, 1:1: the folder that InsightFace and AdaFace share.

    loose_crop/<name>.jpg
    meta/<ijbb|ijbc>_name_5pts_score.txt     name x1 y1 ... x5 y5 score
    meta/<ijbb|ijbc>_face_tid_mid.txt        name template media
    meta/<ijbb|ijbc>_template_pair_label.txt template template label

Rows of the first two stand for each other: row i of both is image i.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.columns import read_columns
from d2r_fast.recognition.evaluation.crops import LooseCrops


@dataclass(frozen=True)
class IjbFiles:
    """Where the parts of one of the two are; `name` is ijbb or ijbc."""

    name: str
    folder: Path

    @property
    def landmarks(self) -> Path:
        return self._meta("name_5pts_score")

    @property
    def media(self) -> Path:
        return self._meta("face_tid_mid")

    @property
    def pairs(self) -> Path:
        return self._meta("template_pair_label")

    @property
    def images(self) -> Path:
        return self.folder / "loose_crop"

    def _meta(self, part: str) -> Path:
        return self.folder / "meta" / f"{self.name}_{part}.txt"


@dataclass(frozen=True)
class Ijb:
    """N images in T templates, and P pairs of templates.

    Attributes:
        crops: the images, aligned by their landmarks.
        detector_scores: float32 (N,).
        template_ids, media_ids: int64 (N,).
        first, second: int64 (P,) template ids.
        same: bool (P,).
    """

    crops: LooseCrops
    detector_scores: NDArray[np.float32]
    template_ids: NDArray[np.int64]
    media_ids: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


def read_ijb(files: IjbFiles) -> Ijb:
    """The protocol of IJB-B or IJB-C; images are read later.

    Raises:
        UserError: a file is missing or malformed, the files disagree in the number or the names of images, a
            pair names a template without images, a label is not 0 or 1; with the file and the first such line.
    """
    names, *points, scores = read_columns(files.landmarks, [str, *[float] * 11])
    again, template_ids, media_ids = read_columns(files.media, [str, int, int])
    first, second, labels = read_columns(files.pairs, [int, int, int])
    _check_names(files, names, again)
    _check_pairs(files, first, second, labels, template_ids)
    landmarks = np.stack(points, axis=1).reshape(-1, 5, 2)
    _check_finite(files, landmarks, scores)
    return Ijb(
        LooseCrops([files.images / name for name in names], landmarks),
        scores.astype(np.float32), template_ids, media_ids, first, second, labels == 1,
    )  # fmt: skip


def _check_names(files: IjbFiles, names: list[str], again: list[str]) -> None:
    if len(names) != len(again):
        raise UserError(
            f"{files.landmarks} has {len(names):,} rows and {files.media} {len(again):,}: both list the same "
            "images in the same order; get them again"
        )
    if names != again:
        row = next(index for index, name in enumerate(names) if name != again[index])
        raise UserError(
            f"{files.media} line {row + 1} is about {again[row]} and line {row + 1} of {files.landmarks.name} about "
            f"{names[row]}: both list the same images in the same order; get them again"
        )


def _check_pairs(
    files: IjbFiles,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    labels: NDArray[np.int64],
    template_ids: NDArray[np.int64],
) -> None:
    odd = np.flatnonzero((labels != 0) & (labels != 1))
    if len(odd):
        raise UserError(
            f"{files.pairs} line {odd[0] + 1} has label {labels[odd[0]]}, wanted is 0 or 1: get it again"
        )
    known = np.unique(template_ids)
    missing = ~(np.isin(first, known) & np.isin(second, known))
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise UserError(
            f"{files.pairs} line {row + 1} compares templates {first[row]} and {second[row]}, and "
            f"{files.media.name} has no images of one of them: get both again"
        )


def _check_finite(files: IjbFiles, landmarks: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
    bad = np.flatnonzero(~(np.isfinite(landmarks).all(axis=(1, 2)) & np.isfinite(scores)))
    if len(bad):
        raise UserError(
            f"{files.landmarks} line {bad[0] + 1} has a landmark or score that is not finite: get it again"
        )
