"""The ROC curve of scored pairs, and what is read off it: TAR at a FAR, and the equal error rate.

The curve is scikit-learn's `roc_curve` (corners alone, from a threshold of infinity on), and TAR at a FAR is read
as the IJB scripts of InsightFace, AdaFace and CVLface read it: at the point whose FAR is nearest to the one asked
for, above it or below, without interpolation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.inputs import finite_values, pair_labels, resolves
from d2r_fast.recognition.evaluation.results import FARS

FAR_TARGETS: Mapping[str, float] = MappingProxyType({name: float(name) for name in FARS})
"""False accept rates that results are given at, by the names they have there."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Roc:
    """A curve of K points, from (0, 0) to (1, 1).

    Attributes:
        far: (K,) float64, share of impostor pairs that score at least the threshold, never falling.
        tar: (K,) float64, share of genuine pairs that do, never falling.
        thresholds: (K,) float64, falling, the first infinite: nothing is accepted.
        num_genuine: pairs of one person.
        num_impostor: pairs of two.
    """

    far: Floats
    tar: Floats
    thresholds: Floats
    num_genuine: int
    num_impostor: int


@dataclass(frozen=True)
class TarAtFar:
    """The curve's point that is nearest to a false accept rate.

    Attributes:
        tar: true accept rate there.
        far: false accept rate there, which may be above the one asked for.
        threshold: score from which a pair is accepted there; infinite where none is.
        reached: False where there are too few impostor pairs for one of them to be so small a share, or where so
            many pairs have the highest score that no threshold accepts so few. `tar` is then what the protocol
            gives, the rate before or after the first false accepts, and no result.
    """

    tar: float
    far: float
    threshold: float
    reached: bool

    @property
    def result(self) -> float | None:
        """The rate that may be published: None where the FAR is not reached."""
        return self.tar if self.reached else None


def roc_curve(scores: ArrayLike, same: ArrayLike, *, drop_intermediate: bool = True) -> Roc:
    """The curve of all thresholds at which a score stands.

    Args:
        scores: (P,), larger where two images are more alike; of distances, give the negative.
        same: (P,), 1 where a pair shows one person.
        drop_intermediate: leave out points that lie evenly on a straight line between their neighbours.

    Raises:
        UserError: a score that is not finite, labels of another number, or pairs of one kind alone.
    """
    values = finite_values(scores, "scores")
    labels = pair_labels(same, len(values))
    order = np.argsort(values)[::-1]
    values = values[order]
    # Pairs of one score are accepted together: a point stands at the last of each.
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    accepted_genuine = np.cumsum(labels[order])[last]
    accepted_impostor = last + 1 - accepted_genuine
    if drop_intermediate and len(last) > 2:
        corners = _corners(accepted_genuine, accepted_impostor)
        last, accepted_genuine, accepted_impostor = (
            points[corners] for points in (last, accepted_genuine, accepted_impostor)
        )
    num_genuine, num_impostor = int(accepted_genuine[-1]), int(accepted_impostor[-1])
    return Roc(
        np.append(0.0, accepted_impostor / num_impostor),
        np.append(0.0, accepted_genuine / num_genuine),
        np.append(np.inf, values[last]),
        num_genuine,
        num_impostor,
    )


def tar_at_far(roc: Roc, targets: Mapping[str, float] = FAR_TARGETS) -> dict[str, TarAtFar]:
    """The curve's point nearest to each false accept rate; of equally near ones that of the largest TAR.

    Args:
        roc: the curve.
        targets: name -> rate, above 0 and at most 1.

    Raises:
        UserError: a target that is no rate.
    """
    return {name: _nearest(roc, target) for name, target in targets.items()}


def equal_error_rate(roc: Roc) -> float:
    """Where false accepts and false rejects are equally frequent, 0 to 1.

    The curve is taken as straight between its points; the rate is its FAR where that equals 1 - TAR. FAR rises
    along the curve from 0 and 1 - TAR falls from 1, so there is one such rate. Leaving out intermediate points
    does not change it, because they lie on the line.
    """
    misses = 1 - roc.tar
    after = int(np.argmax(roc.far >= misses))  # at 0 misses are 1, so there is a point before it
    far, miss = roc.far[after - 1 : after + 1], misses[after - 1 : after + 1]
    before = miss[0] - far[0]
    share = before / (before + far[1] - miss[1])
    return float(far[0] + share * (far[1] - far[0]))


def _corners(accepted_genuine: NDArray[np.int64], accepted_impostor: NDArray[np.int64]) -> NDArray[np.int64]:
    """Points at which one of the counts changes its step, the ends included."""
    turns = np.diff(accepted_genuine, 2).astype(bool)
    turns |= np.diff(accepted_impostor, 2).astype(bool)
    return np.concatenate(([0], np.flatnonzero(turns) + 1, [len(accepted_genuine) - 1]))


def _nearest(roc: Roc, target: float) -> TarAtFar:
    if not 0 < target <= 1:
        raise UserError(f"false accept rate {target}: give one above 0 and at most 1")
    distance = np.abs(roc.far - target)
    place = len(distance) - 1 - int(np.argmin(distance[::-1]))
    tar, far, threshold = (float(values[place]) for values in (roc.tar, roc.far, roc.thresholds))
    reached = resolves(roc.num_impostor, target) and math.isfinite(threshold)
    return TarAtFar(tar, far, threshold, reached)
