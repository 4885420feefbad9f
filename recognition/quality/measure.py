"""All measures of one set of embeddings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.quality.centres import (
    class_centres,
    class_sizes,
    class_sums,
    other_cosines,
    own_cosines,
    unit_rows,
)
from d2r_fast.recognition.quality.consistency import centre_similarity, identity_consistency
from d2r_fast.recognition.quality.diversity import diversity_between_images, diversity_to_centre
from d2r_fast.recognition.quality.duplicates import Duplicates, find_duplicates, uniqueness
from d2r_fast.recognition.quality.neighbours import choose_queries, neighbour_consistency
from d2r_fast.recognition.quality.separation import separate
from d2r_fast.recognition.quality.spectrum import effective_rank, second_moment, vendi_score, within_moment


@dataclass(frozen=True, slots=True)
class Scale:
    """What the measures are told: see QualityConfig."""

    radius: float = 0.3
    duplicate_threshold: float = 0.7
    neighbours: int = 10
    queries: int = 4096
    impostor_pairs: int = 50_000_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """Values by the names of the catalogue, None where there is nothing to measure; and what they rest on."""

    values: dict[str, float | None]
    duplicates: Duplicates
    counts: dict[str, int]


def measure(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    scale: Scale,
    *,
    class_names: Sequence[str] | None = None,
) -> Measured:
    """Every measure of raw embeddings (N,D), finite and not zero, with labels (N,) in 0..C-1.

    `class_names` are what messages call the C classes; by default their numbers.

    Raises:
        UserError: fewer than two identities, no identity with two images, or one whose images cancel out.
    """
    sizes = class_sizes(labels)
    if len(sizes) < 2 or sizes.max() < 2:
        raise UserError(
            f"{len(sizes)} identities of at most {sizes.max()} images: quality compares 2 identities and 2 images "
            "of one at least"
        )
    norms = np.linalg.norm(embeddings, axis=1).astype(np.float64)
    units = unit_rows(embeddings)
    sums, moment = class_sums(units, labels), second_moment(units)
    centres = class_centres(sums, class_names=class_names)
    own, others = own_cosines(units, labels, centres), other_cosines(units, labels, sums)
    duplicates = find_duplicates(centres, threshold=scale.duplicate_threshold)
    similarity, spread = centre_similarity(own, labels)
    pairs = separate(units, labels, moment, max_pairs=scale.impostor_pairs, seed=scale.seed)
    queries = choose_queries(labels, num_queries=scale.queries, seed=scale.seed)
    agreement = neighbour_consistency(units, labels, queries, k=scale.neighbours)
    ranks = _ranks(moment, within_moment(moment, sums, sizes), centres, most=min(units.shape))
    values = {
        "num_identities": len(sizes), "num_images": len(labels), "images_per_identity": len(labels) / len(sizes),
        "intrinsic_quality": (agreement + ranks["normalised_effective_rank"]) / 2,
        "consistent_variety": (agreement * ranks["normalised_effective_rank"]) ** 0.5,
        "identity_consistency": identity_consistency(own, labels, radius=scale.radius),
        "consistency_with_others": identity_consistency(others, labels, radius=scale.radius),
        "centre_similarity": similarity, "centre_similarity_std": spread,
        "uniqueness": uniqueness(centres, radius=scale.radius),
        "duplicate_pairs": duplicates.num_pairs,
        "duplicate_identities": duplicates.num_identities / len(sizes),
        "diversity_to_centre": diversity_to_centre(own, labels),
        "diversity_between_images": diversity_between_images(sums, sizes),
        "genuine_mean": pairs.genuine_mean, "genuine_std": pairs.genuine_std,
        "impostor_mean": pairs.impostor_mean, "impostor_std": pairs.impostor_std,
        "fdr": pairs.fdr, "d_prime": pairs.d_prime, "eer": pairs.eer,
        "fmr100": pairs.fmr100, "fmr1000": pairs.fmr1000,
        "neighbour_consistency": agreement, **ranks,
        "norm_mean": float(norms.mean()), "norm_std": float(norms.std()),
    }  # fmt: skip
    counts = {
        "genuine_pairs": pairs.num_genuine, "impostor_pairs": pairs.num_impostor,
        "impostor_pairs_sampled": pairs.num_sampled, "queries": len(queries),
        "single_image_identities": int((sizes == 1).sum()),
    }  # fmt: skip
    return Measured(_finite(values), duplicates, counts)


def _ranks(
    moment: NDArray[np.float64], within: NDArray[np.float64], centres: NDArray[np.float32], *, most: int
) -> dict[str, float]:
    """Effective ranks; `most` is the highest that there could be."""
    energy, of_centres = float(np.trace(moment)), second_moment(centres)
    rank = effective_rank(moment, energy=energy)
    return {
        "effective_rank": rank,
        "normalised_effective_rank": rank / most,
        "effective_rank_within": effective_rank(within, energy=energy),
        "effective_rank_centres": effective_rank(of_centres, energy=float(np.trace(of_centres))),
        "vendi": vendi_score(moment),
    }


def _finite(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """NaN as None: JSON has no NaN."""
    return {name: None if value is None or math.isnan(value) else value for name, value in values.items()}
