"""Which weights enter an IJB template: the flip sum, the feature norm, the detector's score.

Named as in InsightFace's scripts, F1N1D1: F1 adds the embedding of the mirrored image, N1 keeps the norm of
embeddings (N0 normalises each before it is averaged), D1 weighs each by its detector score.
"""

import re
from dataclasses import dataclass, replace

NAMES = {"insightface": "F1N1D1", "adaface": "F1N1D0"}
"""What their public evaluations do by default."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """The three switches; `str` gives the triple."""

    flip: bool
    norm: bool
    detector: bool

    def of_same_flip(self) -> "list[Fusion]":
        """All four that the same embeddings give, this one first: a flip is embedded, norm and score weigh."""
        four = [
            replace(self, norm=norm, detector=detector)
            for norm in (True, False)
            for detector in (True, False)
        ]
        return sorted(four, key=lambda fusion: fusion != self)

    def __str__(self) -> str:
        return f"F{self.flip:d}N{self.norm:d}D{self.detector:d}"


def parse_fusion(text: str) -> Fusion:
    """The switches of a name or a triple, the letters in any order and case: insightface, F1N1D0, n1d1f1.

    Raises:
        ValueError: neither.
    """
    triple = NAMES.get(text.lower(), text).upper()
    switches = {letter: digit == "1" for letter, digit in re.findall("([FND])([01])", triple)}
    if len(switches) != 3 or len(triple) != 6:
        raise ValueError("give insightface, adaface, or a triple such as F1N0D1")
    return Fusion(flip=switches["F"], norm=switches["N"], detector=switches["D"])
