"""Does training learn? Renders of one set of people train a small network; it is measured on pairs of others.

    python -m d2r_fast.bench.miniature.learn FACEKIT --out learnt         # half of IR-18, 20 minutes on 2 cores

Everything is made here: renders, pairs of held-out people, network, tables, curve and page. The last line is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from d2r_fast.bench.machine import describe_machine, describe_versions, revision
from d2r_fast.bench.miniature.flags import add_flags
from d2r_fast.bench.miniature.pairs import make_pairs
from d2r_fast.bench.miniature.render import render
from d2r_fast.engine.config import Frozen
from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import make_folder
from d2r_fast.engine.stops import stop_when_told
from d2r_fast.recognition.evaluation.config import EvaluateConfig
from d2r_fast.recognition.evaluation.evaluate import evaluate
from d2r_fast.recognition.evaluation.results import RESULTS
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.recognition.training.train import train

HELD_OUT = 1_000_000
"""Number of the first held-out identity: never one that is trained on."""
SUITE = "heldout"


class LearnConfig(Frozen):
    """How much is rendered, and what is trained on it."""

    facekit: Path
    out: Path
    identities: Annotated[int, Field(ge=2, lt=HELD_OUT)] = 250
    images: Annotated[int, Field(ge=2)] = 10
    held_identities: Annotated[int, Field(ge=2)] = 60
    pairs: Annotated[int, Field(ge=20)] = 600
    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    width: Annotated[float, Field(gt=0, le=1)] = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"


def learn(config: LearnConfig) -> dict[str, Any]:
    """Render, train, evaluate; returns what came out and how long each part took.

    Raises:
        UserError: no head there, a folder cannot be used, or `out` holds something: times would be of a part.
        RunError: the disk is full.
    """
    make_folder(config.out)
    if any(config.out.iterdir()):
        raise UserError(f"out {config.out} is not empty: give an empty folder")
    seconds: dict[str, float] = {}
    source, held, benchmarks = (config.out / name for name in ("train", "held", "benchmarks"))
    with _timed("render", seconds):
        _render(config, source, range(config.identities))
        _render(config, held, range(HELD_OUT, HELD_OUT + config.held_identities))
        make_folder(benchmarks)
        make_pairs(held, benchmarks / f"{SUITE}.bin", num_pairs=config.pairs, seed=config.seed)
    with _timed("train", seconds):
        train(training_of(config, source))
    with _timed("evaluate", seconds):
        evaluate(
            EvaluateConfig(
                network=config.out / "run",
                benchmarks=benchmarks,
                out=config.out / "evaluation",
                device=config.device,
            )
        )
    found = json.loads((config.out / "evaluation" / RESULTS).read_text())[SUITE]
    settings = config.model_dump(mode="json", exclude={"facekit", "out"})
    return {"settings": settings, "seconds": seconds, "result": found}


def training_of(config: LearnConfig, source: Path) -> TrainConfig:
    """IR-18 with AdaFace, and a gentle start: so few steps leave no time to recover from a bad one."""
    return TrainConfig(
        data=source, out=config.out / "run", backbone="ir_18", width=config.width, epochs=config.epochs,
        batch_size=config.batch_size, learning_rate=config.learning_rate, warmup_epochs=min(1.0, config.epochs / 4),
        augment="flip", seed=config.seed, device=config.device,
    )  # fmt: skip


def _render(config: LearnConfig, out: Path, identities: range) -> None:
    render(
        config.facekit, out, identities=identities, images_per_identity=config.images, seed=config.seed,
        device=config.device,
    )  # fmt: skip


class _timed:
    """Writes how long its block took into a table, under a name."""

    def __init__(self, name: str, seconds: dict[str, float]) -> None:
        self._name, self._seconds = name, seconds

    def __enter__(self) -> None:
        self._started_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = round(time.monotonic() - self._started_s, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("facekit", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    add_flags(parser, LearnConfig)
    try:
        config = LearnConfig(**vars(parser.parse_args(arguments)))
        found = learn(config)
    except (UserError, RunError) as error:
        say(f"learn: {error}")
        return error.exit_code
    device = find_device(config.device)
    about = {"machine": describe_machine(device), "versions": describe_versions(), "revision": revision()}
    print(json.dumps({"name": "learn", **found, **about}))
    return 0


if __name__ == "__main__":
    stop_when_told()
    sys.exit(main())
