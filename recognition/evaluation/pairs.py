"""Lists of image pairs, and what a network is worth on one: the protocol of the .bin sets and of RFW."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.readers.reader import Reader
from d2r_fast.recognition.evaluation.bin_file import BinPairs
from d2r_fast.recognition.evaluation.crops import Crops, EncodedCrops
from d2r_fast.recognition.evaluation.embed_crops import Embed, embed_crops
from d2r_fast.recognition.evaluation.folds import pair_distances, ten_fold, val_at_far
from d2r_fast.recognition.evaluation.results import SuiteResult
from d2r_fast.recognition.evaluation.roc import equal_error_rate, roc_curve, tar_at_far

VAL_FAR = "1e-3"
"""Where InsightFace reads VAL."""


@dataclass(frozen=True)
class Pairs:
    """N pairs of crops: pair i is crops `rows[2 * i]` and `rows[2 * i + 1]`, each crop listed once.

    Attributes:
        rows: int64 (2 N,).
        same: bool (N,).
    """

    crops: Crops
    rows: NDArray[np.int64]
    same: NDArray[np.bool_]


def pairs_of_bin(found: BinPairs, *, source: str) -> Pairs:
    """The pairs of a .bin file; what occurs several times is embedded once (AgeDB-30 lists 5,298 images 12,000
    times). `source` names the file in messages."""
    images = list(dict.fromkeys(found.images))
    place = {image: index for index, image in enumerate(images)}
    return Pairs(EncodedCrops(images, source), np.array([place[image] for image in found.images]), found.same)


def verify_pairs(
    pairs: Pairs,
    embed: Embed,
    *,
    suite: str,
    flip: bool = True,
    batch_size: int = 128,
    max_unreadable: int = 0,
    reader: Reader | None = None,
) -> SuiteResult:
    """Ten-fold accuracy, TARs and curve of a network on pairs.

    Embeddings and their mirror images' are added in float64, as InsightFace adds them. Pairs with an unreadable
    image are left out, and the folds made of those that remain.

    Raises:
        UserError: more than `max_unreadable` images cannot be read; fewer than 10 pairs, or pairs of one kind.
        RunError: an embedding that is not finite.
    """
    started_s = time.monotonic()
    found = embed_crops(
        pairs.crops, embed, title=suite, flip=flip, batch_size=batch_size, max_unreadable=max_unreadable,
        dtype=np.float64, reader=reader,
    )  # fmt: skip
    usable = found.readable[pairs.rows].reshape(-1, 2).all(axis=1)
    rows, same = pairs.rows[np.repeat(usable, 2)], pairs.same[usable]
    try:
        distances = pair_distances(found.embeddings[rows])
        folds = ten_fold(distances, same)
        roc = roc_curve(-distances, same)
    except UserError as error:
        raise UserError(f"{suite}: {error}") from None
    return SuiteResult(
        suite=suite,
        accuracy=folds.accuracy,
        std=folds.std,
        folds=tuple(folds.accuracies.tolist()),
        thresholds=tuple(folds.thresholds.tolist()),
        tar_at_far={far: point.result for far, point in tar_at_far(roc).items()},
        val_at_far={VAL_FAR: val_at_far(distances, same, far=float(VAL_FAR)).val},
        eer=equal_error_rate(roc),
        num_genuine=roc.num_genuine,
        num_impostor=roc.num_impostor,
        num_unreadable=found.num_unreadable,
        roc=roc,
        seconds=time.monotonic() - started_s,
    )
