"""What is measured of every column: identity kept, distance to photographs, seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.embedder import Embedder
from d2r_fast.translation.compare.features import Features, Space
from d2r_fast.translation.compare.identity import Kept, compare_identity, embed_pictures
from d2r_fast.translation.compare.mmd import halves, squared_mmd
from d2r_fast.translation.compare.pictures import Picture, Pixels, at_side

LEAST = 4
"""Pictures that a distance takes on each side."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Squared MMD to photographs, and to what extent it is less than the untranslated one.

    Attributes:
        value: of the column.
        fallen_by: share of the untranslated distance that is gone; None where there was none to speak of.
    """

    value: float
    fallen_by: float | None


class Photographs:
    """Real photographs as the ruler that columns are held against.

    Attributes:
        floor: distances of halves of them: what means nothing.
        before: distance of the untranslated pictures.

    Raises:
        UserError: fewer than four pictures on a side.
    """

    def __init__(self, real: Sequence[Picture], source: Sequence[Picture], *, side: int, seed: int) -> None:
        if min(len(real), len(source)) < LEAST:
            raise UserError(
                f"{len(real)} photographs and {len(source)} images: a distance takes {LEAST} of each, give more images "
                "or leave --real out"
            )
        self._side = side
        theirs, ours = (
            at_side([picture.pixels for picture in pictures], side) for pictures in (real, source)
        )
        self._space = Space.over(ours, theirs, side=side)
        self._real = self._space(theirs)
        self.num, self.floor = len(real), halves(self._real, seed=seed)
        self.before = squared_mmd(self._space(ours), self._real)

    def distance(self, pictures: Sequence[Pixels]) -> Distance | None:
        """Of translated pictures; None where fewer than two could be translated."""
        if len(pictures) < 2:
            return None
        found: Features = self._space(at_side(pictures, self._side))
        value = squared_mmd(found, self._real)
        meaningful = self.before > 2 * max(abs(one) for one in self.floor)
        return Distance(value, 1 - value / self.before if meaningful else None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a recogniser finds in a column: over all, and the cosine of each picture to its own source, None where it
    could not be translated."""

    kept: Kept
    cosines: tuple[float | None, ...]


class Witness:
    """A recogniser, and what it sees in the untranslated pictures."""

    def __init__(self, embedder: Embedder, source: Sequence[Picture]) -> None:
        self._embedder = embedder
        self.name = embedder.name
        self._labels = [picture.image.identity for picture in source]
        self._before = embed_pictures(embedder, self._square([picture.pixels for picture in source]))

    def look(self, pictures: Sequence[Pixels | None]) -> Seen | None:
        """At translated pictures in the order of the source; None where none could be translated."""
        places = [place for place, pixels in enumerate(pictures) if pixels is not None]
        if not places:
            return None
        after = embed_pictures(self._embedder, self._square([p for p in pictures if p is not None]))
        before = self._before[np.array(places)]
        cosines: list[float | None] = [None] * len(pictures)
        for place, cosine in zip(places, (before * after).sum(1).tolist(), strict=True):
            cosines[place] = cosine
        kept = compare_identity(before, after, [self._labels[place] for place in places])
        return Seen(kept, tuple(cosines))

    def _square(self, pictures: Sequence[Pixels]) -> Pixels:
        return at_side(pictures, self._embedder.size[0])
