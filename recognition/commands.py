"""The commands of recognition; work is imported inside `run`, so that naming a command costs nothing."""

from pathlib import Path
from typing import ClassVar

from d2r_fast.engine.command import Command, Settings
from d2r_fast.recognition.evaluation.config import EvaluateConfig
from d2r_fast.recognition.quality.config import QualityConfig
from d2r_fast.recognition.training.config import RECIPES, RecipeName, TrainConfig


class Train(TrainConfig, Command):
    """Train a face-recognition network on a dataset.

    What the papers leave open is decided as each setting says; flags go before the settings file, the file before
    the recipe. Under torchrun (`torchrun --no-python ... d2r-fast train ...`) all its processes train one network.
    """

    PRESETS: ClassVar[Settings] = RECIPES
    PRESET_FLAG: ClassVar[str] = "recipe"

    config: Path | None = None
    """YAML file of settings, named as the flags with underscores."""
    recipe: RecipeName = "digi2real"
    """digi2real: IR-50, AdaFace, 30 epochs, batch 256, cosine as the paper says; optimiser and augmentation as
    AdaFace's scripts, since it names none. syn2auth: ArcFace's IR-50, AdaFace, early stopping as the paper says;
    AdaFace's schedule and its rule for the best epoch, since it says no more. adaface: its published script.
    arcface: InsightFace's on one GPU."""

    def run(self) -> int:
        from d2r_fast.recognition.training.train import train

        return train(self.settings())


class Evaluate(EvaluateConfig, Command):
    """Measure a face-recognition network on verification benchmarks, and write tables, ROC curves and a page."""

    def run(self) -> int:
        from d2r_fast.recognition.evaluation.evaluate import evaluate

        return evaluate(self.settings())


class Quality(QualityConfig, Command):
    """Judge a dataset without training on it, by a recogniser that did not make it."""

    def run(self) -> int:
        from d2r_fast.recognition.quality.quality import run_quality

        return run_quality(self.settings())
