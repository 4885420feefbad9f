"""Do measures that need no training tell which set is the best to train on? `quality` of every set, and how its
measures rank the sets beside the accuracies that were reached.

The judge is a network that was trained on photographs of other people, and that no set was made with.
"""

from collections.abc import Sequence
from typing import Any

from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig
from d2r_fast.bench.miniature.reproduce.sets import MAIN, REAL, SUITE, UNIFORM
from d2r_fast.bench.miniature.reproduce.trials import ACCURACIES, trials_of
from d2r_fast.engine.files import make_folder
from d2r_fast.recognition.quality.accuracies import read_accuracies, read_measures
from d2r_fast.recognition.quality.calibrate import rank_predictors
from d2r_fast.recognition.quality.config import QualityConfig
from d2r_fast.recognition.quality.quality import DOCUMENT, run_quality

SCORES = "scores"
WHOLE = (*MAIN, UNIFORM)
"""Sets of one size."""


def score_all(config: ReproduceConfig, names: Sequence[str]) -> None:
    """Writes quality.json for every set but the judge's own; what is there is left alone.

    Raises:
        UserError: a set has too few images to be judged.
        RunError: the disk is full.
    """
    judge = trials_of(config, REAL)[0].folder / "network"
    make_folder(config.out / SCORES)
    for name in names:
        if name != REAL and not (config.out / SCORES / name / DOCUMENT).exists():
            run_quality(
                QualityConfig(
                    dataset=config.out / name, recogniser=judge, out=config.out / SCORES / name, seed=config.seed,
                    device=config.device,
                )
            )  # fmt: skip


def rank_measures(config: ReproduceConfig, names: Sequence[str]) -> list[dict[str, Any]]:
    """Spearman's rho of every measure with the accuracy: over the sets of one size, and over all; strongest first.

    Intervals would be of sets that have nothing to do with each other, and most are parts of one.
    """
    known = read_accuracies(config.out / ACCURACIES)
    judged = {name: read_measures(config.out / SCORES / name) for name in names if name != REAL}
    groups = {"whole": {name: judged[name] for name in WHOLE if name in judged}, "all": judged}
    whole, every = (
        rank_predictors(group, measures, known, SUITE, num_resamples=1, seed=config.seed).predictors
        for group, measures in groups.items()
    )
    return [
        {
            "measure": name,
            "rho": found.rho,
            "num": found.num,
            "rho_whole": whole[name].rho if name in whole else None,
        }
        for name, found in every.items()
    ]
