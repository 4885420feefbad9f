"""Does realism transfer bring renders nearer to photographs, and keep who is shown? Small, and from nothing.

    python -m d2r_fast.bench.miniature.transfer FACEKIT --out transferred --save bench/results

Two domains of one head (`domains`), nobody in both: `train-transfer` learns from one to the other without pairs,
`translate` translates renders of people it has not seen, and three things are measured on them: how far they are
from photographs of yet other people (squared MMD with KID's kernel in a fixed feature space), what a recogniser
that `train` trains on renders keeps recognising, and what the same people's own photographs would score, which no
method has seen. Stopped, it goes on where it was. The last line is JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from d2r_fast.bench.machine import describe_machine, describe_versions, revision
from d2r_fast.bench.miniature.domains import SIDE, render_domain
from d2r_fast.bench.miniature.experiment import Clock, made_of, settle
from d2r_fast.bench.miniature.flags import add_flags
from d2r_fast.bench.miniature.processes import side_by_side
from d2r_fast.bench.miniature.transfer_results import measure_transfer, save
from d2r_fast.engine.config import Frozen
from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.stops import stop_when_told
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.recognition.training.train import train
from d2r_fast.translation.config import TranslateConfig
from d2r_fast.translation.training.config import TransferConfig

Method = Literal["decent", "unsb"]
"""Those that need no weights of anybody else's: VSAIT looks through a VGG-19 that its users bring."""
METHODS: tuple[Method, ...] = get_args(Method)
RENDERS, PHOTOGRAPHS, HELD = "renders", "photographs", "held"
OWN, OTHERS = "own-photographs", "other-photographs"
"""Folders: what is learnt from, the renders that are translated; the same people photographed, and other people."""
FIRST = {RENDERS: 0, PHOTOGRAPHS: 1_000_000, HELD: 2_000_000, OWN: 2_000_000, OTHERS: 3_000_000}
"""First identity of each: nobody is in two, but for those photographed on purpose."""
PUBLISHED_NFE = 5
JUDGE = "recogniser"
"""The experiment's own recogniser, as folder and in what was found."""


class TransferExperiment(Frozen):
    """How much is rendered, and how much is learnt from it."""

    facekit: Path
    out: Path
    methods: tuple[Method, ...] = ("unsb",)
    identities: Annotated[int, Field(ge=2, lt=1_000_000)] = 250
    images: Annotated[int, Field(ge=2)] = 8
    held_identities: Annotated[int, Field(ge=4, lt=1_000_000)] = 150
    held_images: Annotated[int, Field(ge=2)] = 2
    side: Annotated[int, Field(ge=32, multiple_of=16)] = SIDE
    steps: Annotated[int, Field(ge=1)] = 8000
    batch_size: Annotated[int, Field(ge=1)] = 1
    ngf: Annotated[int, Field(ge=4)] = 16
    ndf: Annotated[int, Field(ge=4)] = 32
    num_blocks: Annotated[int, Field(ge=1)] = 5
    average: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Few steps end somewhere on a circle; their mean is what is used."""
    lambda_nce: Annotated[float, Field(ge=0)] = 4
    """unsb: weight of the loss that keeps every place what it was. With the published 1, less identity is left."""
    nfe: Annotated[int, Field(ge=1, le=5)] = 1
    """unsb: steps along the bridge, beside which the published five are measured too."""
    trainings: Annotated[int, Field(ge=1, le=16)] = 2
    """Of each method, from seeds that follow each other: how far they end apart is part of the result."""
    epochs: Annotated[int, Field(ge=1)] = 10
    """Of the recogniser."""
    width: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Likewise."""
    recognisers: tuple[Path, ...] = ()
    """More of them to ask, called by the names of their files or folders."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"

    @model_validator(mode="after")
    def _told_apart(self) -> "TransferExperiment":
        names = [JUDGE]
        for path in self.recognisers:
            if path.stem in names:
                raise ValueError(
                    f"recogniser {path} has the name of another one, {path.stem} (the experiment's own is called "
                    f"{JUDGE}): give a copy or a link of another name"
                )
            names.append(path.stem)
        return self


def transfer(experiment: TransferExperiment) -> dict[str, Any]:
    """Render, train, translate, measure; returns what came out and how long each part took.

    Raises:
        UserError: no head there, a folder cannot be used, or `out` holds another experiment.
        RunError: the disk is full, or training failed.
    """
    from d2r_fast.translation.translate import translate

    made = made_of(experiment.facekit, experiment.device)
    settle(experiment.out, settings_of(experiment) | made)
    clock = Clock("transfer", experiment.out)
    clock("render", lambda: render_all(experiment))
    clock("train recogniser", lambda: train(recogniser_of(experiment)))
    folders = {}
    for method in experiment.methods:
        clock(f"train {method}", partial(train_all, experiment, method))
        for number, nfe in product(range(experiment.trainings), steps_of(experiment, method)):
            config = translation_of(experiment, method, number, nfe)
            clock(f"translate by {method}", partial(translate, config))
            folders[f"{method}{said(nfe)}, seed {experiment.seed + number}"] = folder_of(
                experiment, method, number, nfe
            )
    found = measure_transfer(
        experiment.out, folders=folders, recognisers=judges_of(experiment), side=experiment.side,
        seed=experiment.seed, device=experiment.device,
    )  # fmt: skip
    return {"settings": settings_of(experiment), "made_of": made, "seconds": clock.seconds, **found}


def settings_of(experiment: TransferExperiment) -> dict[str, Any]:
    """Everything that decides what is learnt, but for the head: neither folders nor what is asked of the result."""
    return experiment.model_dump(mode="json", exclude={"facekit", "out", "methods", "recognisers", "device"})


def render_all(experiment: TransferExperiment) -> None:
    """The five folders; what is there already is left alone."""
    for name, first in FIRST.items():
        learnt = name in (RENDERS, PHOTOGRAPHS)
        num = experiment.identities if learnt else experiment.held_identities
        render_domain(
            "renders" if name in (RENDERS, HELD) else "photographs", experiment.facekit, experiment.out / name,
            identities=range(first, first + num),
            images_per_identity=experiment.images if learnt else experiment.held_images,
            side=experiment.side, seed=experiment.seed, device=experiment.device,
        )  # fmt: skip


def recogniser_of(experiment: TransferExperiment) -> TrainConfig:
    """IR-18 with AdaFace on the renders, which judges the translations and takes no part in them."""
    return TrainConfig(
        data=experiment.out / RENDERS, out=experiment.out / JUDGE, backbone="ir_18", width=experiment.width,
        epochs=experiment.epochs, batch_size=64, warmup_epochs=min(1.0, experiment.epochs / 4), augment="adaface",
        seed=experiment.seed, num_threads=1, device=experiment.device,
    )  # fmt: skip


def judges_of(experiment: TransferExperiment) -> dict[str, Path]:
    """Every recogniser that is asked, by its name: the experiment's own, and those given."""
    return {JUDGE: experiment.out / JUDGE} | {path.stem: path for path in experiment.recognisers}


def train_all(experiment: TransferExperiment, method: Method) -> None:
    """A method's trainings side by side, a process and on a CPU a thread each: with another number of threads the same
    seed ends elsewhere, since roundings grow in adversarial training.

    Raises:
        UserError: a setting cannot be used.
        RunError: the disk is full, or a training failed.
    """
    configs = [training_of(experiment, method, number) for number in range(experiment.trainings)]
    with side_by_side(experiment.device) as pool:
        list(pool.map(train_one, configs))


def train_one(config: TransferConfig) -> None:
    """In a process of its own."""
    from d2r_fast.translation.training.train_transfer import train_transfer

    train_transfer(config)


def training_of(experiment: TransferExperiment, method: Method, number: int) -> TransferConfig:
    """The method as published, but for a smaller generator, fewer and smaller pictures, the mean of its weights, and
    UNSB's contrastive weight."""
    return TransferConfig(
        method=method, source=experiment.out / RENDERS, target=experiment.out / PHOTOGRAPHS,
        out=run_of(experiment, method, number), size=experiment.side, load_size=experiment.side,
        batch_size=experiment.batch_size, steps=experiment.steps, ngf=experiment.ngf, ndf=experiment.ndf,
        num_blocks=experiment.num_blocks, average=experiment.average,
        lambda_nce=experiment.lambda_nce if method == "unsb" else None, seed=experiment.seed + number,
        num_threads=1, device=experiment.device, checkpoint_every=200,
        pictures_every=max(1, experiment.steps // 4),
    )  # fmt: skip


def steps_of(experiment: TransferExperiment, method: Method) -> list[int | None]:
    """Along the bridge: as wished for, and as published."""
    return list(dict.fromkeys([experiment.nfe, PUBLISHED_NFE])) if method == "unsb" else [None]


def said(nfe: int | None) -> str:
    """What a method's name is followed by, in what was found."""
    return "" if nfe is None else f" in {nfe} {'step' if nfe == 1 else 'steps'}"


def translation_of(
    experiment: TransferExperiment, method: Method, number: int, nfe: int | None
) -> TranslateConfig:
    """The held renders through what a training learnt."""
    return TranslateConfig(
        method=method, source=experiment.out / HELD, weights=run_of(experiment, method, number),
        out=folder_of(experiment, method, number, nfe), nfe=nfe,
        seed=experiment.seed, backend="torch", device=experiment.device,
    )  # fmt: skip


def run_of(experiment: TransferExperiment, method: Method, number: int) -> Path:
    """Where a training of a method lies."""
    return experiment.out / f"{method}-{number}"


def folder_of(experiment: TransferExperiment, method: Method, number: int, nfe: int | None) -> Path:
    """Where its translations lie."""
    return experiment.out / f"{method}-{number}{'' if nfe is None else f'-nfe{nfe}'}-translated"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("facekit", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--save", type=Path, help="folder for the JSON and the contact sheet")
    parser.add_argument("--methods", default="unsb", help=f"of {', '.join(METHODS)}, with commas between")
    parser.add_argument(
        "--recognisers", default="", help="more of them: ONNX, run folders, checkpoints; likewise"
    )
    add_flags(parser, TransferExperiment)
    given = vars(parser.parse_args(arguments))
    folder = given.pop("save")
    try:
        for name in ("methods", "recognisers"):
            given[name] = tuple(word for word in given[name].split(",") if word)
        experiment = TransferExperiment(**given)
        found = transfer(experiment)
        about = {"machine": describe_machine(find_device(experiment.device)), "versions": describe_versions()}
        document = {"name": "transfer", **found, **about, "revision": revision()}
        save(document, experiment.out, folder=folder)
    except (UserError, RunError) as error:
        say(f"transfer: {error}")
        return error.exit_code
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    stop_when_told()
    sys.exit(main())
