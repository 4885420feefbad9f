"""A trial: a small recogniser trained on one set from one seed, and verified on photographs of people it never saw.

Beside them stands the guide, the network that Digi2Real is steered by, verified on the same pairs.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from d2r_fast.bench.miniature.arithmetic import precision_of
from d2r_fast.bench.miniature.processes import side_by_side
from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig
from d2r_fast.bench.miniature.reproduce.sets import BENCHMARKS, SUITE
from d2r_fast.engine.files import make_folder, write_atomic
from d2r_fast.engine.models.layout import RECOGNISER
from d2r_fast.recognition.evaluation.config import EvaluateConfig
from d2r_fast.recognition.evaluation.results import RESULTS
from d2r_fast.recognition.network_file import CONFIG
from d2r_fast.recognition.training.config import TrainConfig

TRIALS, ACCURACIES = "trials", "accuracies.csv"
GUIDE = "guide"
EMBEDDING_DIM = 128


@dataclass(frozen=True)
class Trial:
    """One of them."""

    config: ReproduceConfig
    name: str
    """Of the set."""
    number: int
    """Of the seed."""

    @property
    def seed(self) -> int:
        return self.config.seed + self.number

    @property
    def folder(self) -> Path:
        """Where its network and its results lie."""
        return self.config.out / TRIALS / self.name / f"seed-{self.seed}"

    @property
    def training(self) -> TrainConfig:
        """IR-18 with AdaFace, a recipe for all sets."""
        scale = self.config.scale
        return TrainConfig(
            data=self.config.out / self.name, out=self.folder / "network", backbone="ir_18", width=scale.width,
            embedding_dim=EMBEDDING_DIM, epochs=scale.epochs, batch_size=scale.batch_size, warmup_epochs=1.0,
            scale=scale.logits, margin=scale.margin,
            augment="adaface", onnx=False, num_threads=1, seed=self.seed, device=self.config.device,
            precision=precision_of(self.config.device),
        )  # fmt: skip

    @property
    def evaluation(self) -> EvaluateConfig:
        return EvaluateConfig(
            network=self.folder / "network", benchmarks=self.config.out / BENCHMARKS,
            out=self.folder / "evaluation", no_flip=True, device=self.config.device,
        )  # fmt: skip

    @cached_property
    def verified(self) -> dict[str, Any]:
        """What `evaluate` found: accuracy, the share of the pairs that it judged rightly, and that of each fold."""
        return read_verified(self.folder / "evaluation")

    @property
    def steps(self) -> int:
        """Of its training."""
        return int(json.loads((self.folder / "network" / CONFIG).read_bytes())["about"]["steps"])


def trials_of(config: ReproduceConfig, name: str) -> list[Trial]:
    """Those of a set, in the order of their seeds."""
    return [Trial(config, name, number) for number in range(config.scale.seeds)]


def run_trials(config: ReproduceConfig, names: Sequence[str]) -> None:
    """Trains and verifies a network for every set and seed; what is there is left alone.

    Raises:
        UserError: a set cannot be used.
        RunError: the disk is full, or a training failed.
    """
    trials = [trial for name in names for trial in trials_of(config, name)]
    with side_by_side(config.device) as pool:
        for _ in pool.map(run_trial, trials):
            pass
    verify_guide(config)
    write_accuracies(config, names)


def run_trial(trial: Trial) -> None:
    """In a process of its own."""
    from d2r_fast.recognition.evaluation.evaluate import evaluate
    from d2r_fast.recognition.training.train import train

    make_folder(trial.folder)
    train(trial.training)
    evaluate(trial.evaluation)


def verify_guide(config: ReproduceConfig) -> None:
    """Of a network that has seen far more photographs than any set here holds, so that (b) can be judged by it."""
    from d2r_fast.recognition.evaluation.evaluate import evaluate

    evaluate(
        EvaluateConfig(
            network=config.model_folder / RECOGNISER.weights[0], benchmarks=config.out / BENCHMARKS,
            out=config.out / GUIDE, no_flip=True, device=config.device,
        )
    )  # fmt: skip


def read_verified(folder: Path) -> dict[str, Any]:
    """The part of an evaluation's results that is of the pairs."""
    found: dict[str, Any] = json.loads((folder / RESULTS).read_bytes())[SUITE]
    return found


def write_accuracies(config: ReproduceConfig, names: Sequence[str]) -> None:
    """A row for every set, as `quality --accuracies` reads it: the mean over the seeds."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["run", SUITE])
    for name in names:
        found = [trial.verified["accuracy"] for trial in trials_of(config, name)]
        writer.writerow([name, f"{sum(found) / len(found):.6f}"])
    write_atomic(config.out / ACCURACIES, table.getvalue().encode())
