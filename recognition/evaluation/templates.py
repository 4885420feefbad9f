"""IJB-B and IJB-C templates: embeddings of many images of a person made into one, and pairs of them scored.

As in the IJB scripts of InsightFace (eval_ijbc.py), AdaFace and CVLface (ijbbc/evaluate.py): the images of one
medium in a template (the frames of a video) are averaged, the media of a template added up, and the sum made a unit
vector; the score of two templates is the dot product. Two switches change results and are always reported: whether
images keep the length that the network gave their embeddings, and whether the face detector's scores weigh them.

    templates = aggregate(embeddings, template_ids, media_ids, norm=True, detector_scores=scores)
    pair_scores = score_templates(templates, first, second)

Sums run in the order in which NumPy adds up those arrays in the scripts, in the same arithmetic, so that equal
scores stay equal: which of two nearly equal pairs comes first decides the TAR at small FARs.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.inputs import check_norms

ROWS_AT_ONCE = 8192
"""Embeddings that are weighed and added up together, few enough to stay in a processor's cache."""
PAIRS_AT_ONCE = 256
"""Pairs multiplied together, likewise."""
PAIRS_OF_TASK = 1 << 16
"""Pairs that a thread scores before it asks for more."""
Floats = NDArray[np.float64]
Ids = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Templates:
    """Unit vectors of templates.

    Attributes:
        features: (T, D) float64, rows of length 1.
        ids: (T,), template numbers, ascending.
    """

    features: Floats
    ids: Ids

    def rows_of(self, ids: Ids) -> NDArray[np.int64]:
        """The row of each template number.

        Raises:
            UserError: a number that no image has.
        """
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        unknown = self.ids[rows] != ids
        if unknown.any():
            raise UserError(
                f"template {ids[int(np.argmax(unknown))]} of a pair has no image ({int(unknown.sum())} pairs in "
                "all): check that the lists of images and of pairs are of the same benchmark"
            )
        return rows


def aggregate(
    embeddings: NDArray[np.floating],
    template_ids: Ids,
    media_ids: Ids,
    *,
    norm: bool,
    detector_scores: NDArray[np.floating] | None,
) -> Templates:
    """Makes a unit vector of every template.

    Args:
        embeddings: (N, D) float32 or float64, not normalised, the flipped image's embedding already added if flips
            are used. Their arithmetic is kept up to the sum over media.
        template_ids: (N,), integers.
        media_ids: (N,), integers; the same number in two templates is two media.
        norm: keep the lengths of the embeddings ("N1"); else every image counts alike ("N0").
        detector_scores: (N,), weights of the images ("D1"); None weighs none ("D0"). float64 scores make the
            arithmetic float64; the scripts read them as float32.

    Raises:
        UserError: lengths disagree, nothing was given, numbers that are no integers, an embedding that is zero or
            not finite, a score that is not finite, or a template whose images add up to nothing.
    """
    _check_lengths(embeddings, template_ids, media_ids, detector_scores)
    order = np.lexsort((media_ids, template_ids))
    templates, media = template_ids[order], media_ids[order]
    of_template = _bounds(templates[1:] != templates[:-1])
    of_medium = _bounds((templates[1:] != templates[:-1]) | (media[1:] != media[:-1]))
    features = np.empty((len(of_template) - 1, embeddings.shape[1]))
    for first, end in _chunks(of_template):
        rows = order[of_template[first] : of_template[end]]
        weighed = _weigh(embeddings[rows], rows, norm=norm, detector_scores=detector_scores)
        begin, stop = np.searchsorted(of_medium, of_template[[first, end]])
        bounds = of_medium[begin : stop + 1]
        means = _sums(weighed, bounds) / np.diff(bounds).astype(weighed.dtype)[:, None]
        features[first:end] = _sums(means, np.searchsorted(bounds, of_template[first : end + 1]))
    ids = templates[of_template[:-1]]
    norms = np.sqrt(np.einsum("ij,ij->i", features, features))
    if not norms.all():
        raise UserError(
            f"the images of template {ids[int(np.argmin(norms))]} add up to zero: check their detector scores"
        )
    features /= norms[:, None]
    return Templates(features, ids)


def score_templates(templates: Templates, first: Ids, second: Ids) -> Floats:
    """Cosine similarity of pairs of templates, (P,) float64, on all cores; their number changes no bit of it.

    Args:
        templates: of `aggregate`.
        first, second: (P,), template numbers.

    Raises:
        UserError: lists of unequal length or of none, or a number that no image has.
    """
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise UserError(
            f"pairs of templates have shapes {first.shape} and {second.shape}: give two equally long lists"
        )
    left, right = templates.rows_of(first), templates.rows_of(second)
    scores = np.empty(len(left))

    def score(task: int) -> None:
        end = min(task + PAIRS_OF_TASK, len(left))
        for start in range(task, end, PAIRS_AT_ONCE):
            pairs = slice(start, min(start + PAIRS_AT_ONCE, end))
            products = templates.features[left[pairs]]
            products *= templates.features[right[pairs]]
            np.sum(products, axis=-1, out=scores[pairs])

    with ThreadPoolExecutor(_num_cores()) as pool:
        for _ in pool.map(score, range(0, len(left), PAIRS_OF_TASK)):
            pass
    return scores


def _check_lengths(
    embeddings: NDArray[np.floating], template_ids: Ids, media_ids: Ids, scores: NDArray[np.floating] | None
) -> None:
    if embeddings.ndim != 2 or not embeddings.size:
        raise UserError(f"embeddings of shape {embeddings.shape}: give (N, D), a row for every image")
    lists: dict[str, NDArray[Any]] = {"template numbers": template_ids, "media numbers": media_ids}
    for name, values in lists.items():
        if not np.issubdtype(values.dtype, np.integer):
            raise UserError(f"{name} are {values.dtype}: they must be integers")
    if scores is not None:
        lists["detector scores"] = scores
        if not np.isfinite(scores).all():
            raise UserError(f"detector score of image {int(np.argmin(np.isfinite(scores)))} is not finite")
    for name, values in lists.items():
        if values.shape != (len(embeddings),):
            raise UserError(
                f"{len(embeddings)} embeddings have {name} of shape {values.shape}: give one for every image"
            )


def _weigh(
    embeddings: NDArray[np.floating],
    rows: NDArray[np.int64],
    *,
    norm: bool,
    detector_scores: NDArray[np.floating] | None,
) -> NDArray[np.floating]:
    """Embeddings (n, D), which were the given rows, as they are added up."""
    norms = np.sqrt(np.sum(np.square(embeddings), axis=-1, keepdims=True))
    check_norms(norms[:, 0], rows)
    weighed = embeddings if norm else embeddings / norms
    return weighed if detector_scores is None else weighed * detector_scores[rows, None]


def _sums(rows: NDArray[np.floating], bounds: NDArray[np.int64]) -> NDArray[np.floating]:
    """Sums over runs of rows, each from the first row to the last in the rows' own arithmetic.

    A sparse product adds row by row, as numpy.sum over the first axis does; numpy.add.reduceat would add columns
    in another order, and slowly.
    """
    starts = bounds - bounds[0]
    ones = np.ones(len(rows), rows.dtype)
    summing = csr_array((ones, np.arange(len(rows)), starts), shape=(len(starts) - 1, len(rows)))
    sums: NDArray[np.floating] = summing @ rows
    return sums


def _bounds(changes: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where runs of rows begin, and where the last one ends."""
    return np.concatenate(([0], np.flatnonzero(changes) + 1, [len(changes) + 1]))


def _chunks(of_template: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of templates, each of about `ROWS_AT_ONCE` images and of one template at least."""
    first, num = 0, len(of_template) - 1
    while first < num:
        end = int(np.searchsorted(of_template, of_template[first] + ROWS_AT_ONCE, side="right")) - 1
        end = max(end, first + 1)
        yield first, end
        first = end


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
