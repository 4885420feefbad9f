"""A trial: a small recogniser trained on one set from one seed, and verified on photographs of people it never saw.

Trials run side by side, a process and on a CPU a thread each: what comes out does not depend on the processors.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig
from d2r_fast.bench.miniature.reproduce.sets import BENCHMARKS, SUITE
from d2r_fast.engine.device import find_device
from d2r_fast.engine.files import make_folder, write_atomic
from d2r_fast.recognition.evaluation.config import EvaluateConfig
from d2r_fast.recognition.evaluation.results import RESULTS
from d2r_fast.recognition.training.config import TrainConfig

TRIALS, ACCURACIES = "trials", "accuracies.csv"
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
            augment="adaface", onnx=False, num_threads=1, seed=self.seed, device=self.config.device,
        )  # fmt: skip

    @property
    def evaluation(self) -> EvaluateConfig:
        return EvaluateConfig(
            network=self.folder / "network", benchmarks=self.config.out / BENCHMARKS,
            out=self.folder / "evaluation", device=self.config.device,
        )  # fmt: skip

    @property
    def accuracy(self) -> float:
        """Share of the pairs that it judged rightly, over ten folds."""
        found = json.loads((self.folder / "evaluation" / RESULTS).read_bytes())
        return float(found[SUITE]["accuracy"])


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
    with side_by_side(config) as pool:
        for _ in pool.map(run_trial, trials):
            pass
    write_accuracies(config, names)


def run_trial(trial: Trial) -> None:
    """In a process of its own."""
    from d2r_fast.recognition.evaluation.evaluate import evaluate
    from d2r_fast.recognition.training.train import train

    make_folder(trial.folder)
    train(trial.training)
    evaluate(trial.evaluation)


@contextmanager
def side_by_side(config: ReproduceConfig) -> Iterator[Executor]:
    """Processes of a thread each, one for every processor; on CUDA one, which has the card to itself."""
    count = (os.cpu_count() or 1) if find_device(config.device) == "cpu" else 1
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=one_thread) as pool:
        yield pool


def one_thread() -> None:
    """Leaves the other processors to the other processes."""
    import torch

    torch.set_num_threads(1)


def write_accuracies(config: ReproduceConfig, names: Sequence[str]) -> None:
    """A row for every set, as `quality --accuracies` reads it: the mean over the seeds."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["run", SUITE])
    for name in names:
        found = [trial.accuracy for trial in trials_of(config, name)]
        writer.writerow([name, f"{sum(found) / len(found):.6f}"])
    write_atomic(config.out / ACCURACIES, table.getvalue().encode())
