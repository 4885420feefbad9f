"""Do measures that need no training tell which set is the best to train on? `quality` of every set, and how its
measures rank the sets beside the accuracies that were reached.

The judge is a network that was trained on photographs of other people, and that no set was made with.
"""

import json
from collections.abc import Sequence
from typing import Any

from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig
from d2r_fast.bench.miniature.reproduce.sets import REAL
from d2r_fast.bench.miniature.reproduce.trials import ACCURACIES, trials_of
from d2r_fast.engine.files import make_folder
from d2r_fast.recognition.quality import calibrate, quality
from d2r_fast.recognition.quality.config import QualityConfig

SCORES, CALIBRATION = "scores", "calibration"
BOOTSTRAP = 10_000


def score_all(config: ReproduceConfig, names: Sequence[str]) -> None:
    """Writes quality.json for every set but the judge's own, and the ranking of the measures.

    Raises:
        UserError: a set has too few images to be judged.
        RunError: the disk is full.
    """
    judged = [name for name in names if name != REAL]
    judge = trials_of(config, REAL)[0].folder / "network"
    make_folder(config.out / SCORES)
    for name in judged:
        quality.run_quality(
            QualityConfig(
                dataset=config.out / name, recogniser=judge, out=config.out / SCORES / name, seed=config.seed,
                device=config.device,
            )
        )  # fmt: skip
    calibrate.calibrate(
        [f"{name}={config.out / SCORES / name / quality.DOCUMENT}" for name in judged],
        accuracies=config.out / ACCURACIES, out=config.out / CALIBRATION, bootstrap=BOOTSTRAP, seed=config.seed,
    )  # fmt: skip


def read_rankings(config: ReproduceConfig) -> list[dict[str, Any]]:
    """The measures with their rank correlations, the strongest first."""
    rankings = json.loads((config.out / CALIBRATION / calibrate.DOCUMENT).read_bytes())
    return [
        {"measure": name, **found} for ranking in rankings for name, found in ranking["predictors"].items()
    ]
