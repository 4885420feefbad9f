"""Training sets that both papers report, side by side: what does not compare across them, in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from d2r_fast.recognition.evaluation.published import PublishedRow, read_published

# (what it is, its dataset and transfer method in Syn2Auth, its name in Digi2Real's Table 6)
_SAME = (
    ("DigiFace1M", ("DigiFace1M", "None"), "DigiFace1M"),
    ("DigiFace1M through CodeFormer", ("DigiFace1M", "CodeFormer"), "Syn2Auth-DF-CF"),
    ("IDiffFace", ("IDiffFace", "None"), "IDiffFace"),
    ("DCFace", ("DCFace", "None"), "DCFace"),
)
_FIVE = ("LFW", "CFPFP", "CPLFW", "CALFW", "AGEDB")


@dataclass(frozen=True, slots=True)
class SameSet:
    """One training set in both papers: pairs of (Syn2Auth, Digi2Real), percent."""

    name: str
    lfw: tuple[float, float]
    cplfw: tuple[float, float]
    calfw: tuple[float, float]
    agedb: tuple[float, float]
    cfp: tuple[float, float]
    """CFPFP in Syn2Auth, CFP-FP in Digi2Real."""
    ijbc: tuple[float, float]
    """TAR at FAR 1e-4."""
    ijbc_std: float
    """Over Syn2Auth's runs."""
    average_gap: float
    """Syn2Auth's Avg minus the mean of its five columns, points."""
    sixth: float
    """What a sixth column would have to be for Avg to be the mean of six."""

    def gap(self, column: str) -> float:
        """Syn2Auth's number less Digi2Real's, points; `column` is an attribute above."""
        ours, theirs = getattr(self, column)
        gap: float = ours - theirs
        return gap


def gap_range(found: Sequence[SameSet], column: str) -> tuple[float, float]:
    """The smallest and the largest of the sets' gaps, by size."""
    gaps = sorted((same.gap(column) for same in found), key=abs)
    return gaps[0], gaps[-1]


def same_sets() -> list[SameSet]:
    """The four training sets that Syn2Auth's Tables 2 and 3 and Digi2Real's Table 6 share."""
    accuracies, tars = (_by_training(f"syn2auth_table{number}") for number in (2, 3))
    digi2real = {row.labels["dataset"]: row.values for row in read_published("digi2real_table6").rows}
    return [
        _same_set(name, accuracies[syn2auth], tars[syn2auth], digi2real[theirs])
        for name, syn2auth, theirs in _SAME
    ]


def _by_training(name: str) -> dict[tuple[str, str], PublishedRow]:
    return {(row.labels["dataset"], row.labels["transfer_method"]): row for row in read_published(name).rows}


def _same_set(name: str, pairs: PublishedRow, tars: PublishedRow, theirs: dict[str, float]) -> SameSet:
    five = [pairs.values[column] for column in _FIVE]
    return SameSet(
        name=name,
        lfw=(pairs.values["LFW"], theirs["LFW"]),
        cplfw=(pairs.values["CPLFW"], theirs["CPLFW"]),
        calfw=(pairs.values["CALFW"], theirs["CALFW"]),
        agedb=(pairs.values["AGEDB"], theirs["AgeDB-30"]),
        cfp=(pairs.values["CFPFP"], theirs["CFP-FP"]),
        ijbc=(tars.values["1e-04"], theirs["IJB-C"]),
        ijbc_std=tars.stds["1e-04"],
        average_gap=pairs.values["Avg"] - mean(five),
        sixth=6 * pairs.values["Avg"] - sum(five),
    )
