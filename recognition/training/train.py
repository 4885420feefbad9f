"""The `train` command: data and recipe in, a run folder with a network out.

d2r-fast train --data digi2real --out run --recipe digi2real
"""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2r_fast.engine.backends.cuda import compute_exactly
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import make_folder
from d2r_fast.engine.readers.reader import describe_reader
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.export_onnx import export_recogniser
from d2r_fast.recognition.network_file import load_network, network_file, save_network, weights_sha256
from d2r_fast.recognition.training.board import Board
from d2r_fast.recognition.training.build import (
    Arithmetic,
    arithmetic_of,
    build_classifier,
    check_compilable,
    load_init,
    network_of,
    open_data,
    open_loader,
)
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.recognition.training.desk import Desk
from d2r_fast.recognition.training.distributed import Processes, joined
from d2r_fast.recognition.training.loader import Loader
from d2r_fast.recognition.training.run_folder import BEST, RUN, SUCCESS, RunFolder
from d2r_fast.recognition.training.seeds import report_seeds
from d2r_fast.recognition.training.trainer import Trainer, order_of
from d2r_fast.recognition.training.training_set import TrainingSet, check_training_set
from d2r_fast.recognition.training.validation import Validation

ONNX = "recogniser.onnx"
NAMED = 10
"""Unreadable images to name."""


def train(config: TrainConfig) -> int:
    """Train one network, or one for every seed; returns the exit status.

    Torch's global random state is the run's from now on.

    Raises:
        UserError: data, a network or a folder cannot be used.
        RunError: the loss is not a number, too many images are unreadable, memory or the disk is full.
    """
    with joined(config.device) as processes:
        compute_exactly(str(processes.device))  # as validation will; a resumed run must not differ before it
        if config.batch_size % processes.count:
            raise UserError(
                f"batch_size {config.batch_size} over {processes.count} processes: give a multiple of {processes.count}"
            )
        if config.seeds == 1:
            train_one(config, processes)
            return 0
        processes.lead(lambda: _make_folder_of_seeds(config.out))
        runs = [_of_seed(config, config.seed + number) for number in range(config.seeds)]
        for run in runs:
            train_one(run, processes)
        if processes.leads:
            report_seeds(config.out, [run.out for run in runs])
    return 0


def _make_folder_of_seeds(out: Path) -> None:
    if (out / RUN).exists():
        raise UserError(f"out {out} holds a run of one seed: give --seeds another folder")
    make_folder(out)


def _of_seed(config: TrainConfig, seed: int) -> TrainConfig:
    values = {name: getattr(config, name) for name in TrainConfig.model_fields}
    return TrainConfig(**values | {"seed": seed, "seeds": 1, "out": config.out / f"seed-{seed}"})


def train_one(config: TrainConfig, processes: Processes) -> None:
    """Train the network of one seed into config.out, from where an earlier try stopped."""
    data, network = processes.each(lambda: open_data(config)), network_of(config)
    summary = check_training_set(data)
    order_of(config, data, processes, epoch=0)  # refuses too large a batch before anything is written
    check_compilable(config, network, processes.device)
    arithmetic = arithmetic_of(config, processes.device)
    init = processes.each(lambda: load_init(config, network)) if config.init else None
    desk = processes.lead(lambda: open_desk(config, data, network, arithmetic, device=processes.device))
    with desk or nullcontext():
        if processes.tell(int(desk is not None and desk.folder.finished)):
            _say(processes, f"{config.out} is finished already")
        else:
            _say(processes, f"{summary.line()}; {config.backbone} {config.layout}, {config.epochs} epochs")
            classifier = build_classifier(
                config,
                network,
                init,
                num_classes=data.num_classes,
                arithmetic=arithmetic,
                processes=processes,
            )
            loader = open_loader(config, data, network, processes)
            trainer = Trainer(config, classifier, data, loader, processes=processes, desk=desk)
            trainer.run()
            _say_left_out(processes, loader)
            steps = trainer.place.step
            processes.lead(lambda: publish(desk, classifier.backbone, network, steps=steps))
            _say(processes, f"trained {config.out}")
        processes.lead(lambda: _export(config))


def open_desk(
    config: TrainConfig,
    data: TrainingSet,
    network: BackboneConfig,
    arithmetic: Arithmetic,
    *,
    device: torch.device,
) -> Desk:
    """What the leading process alone has: the run's folder, its benchmarks, its board.

    Raises:
        UserError: a folder or a benchmark cannot be used, or the folder holds another run.
    """
    validation = (
        Validation(config.benchmarks, network, device=str(device), best=config.out / BEST)
        if config.benchmarks
        else None
    )
    if validation is not None and not (config.out / SUCCESS).exists():
        validation.check()
    document = describe(config, data, arithmetic=arithmetic, validation=validation)
    board = Board(config.out / "tensorboard") if config.tensorboard else None
    about = {**document, "data": {"name": data.name, **document["data"]}, "torch": torch.__version__}
    return Desk(RunFolder.open(config.out, document), validation, board, about)


def describe(
    config: TrainConfig, data: TrainingSet, *, arithmetic: Arithmetic, validation: Validation | None
) -> dict[str, Any]:
    """What decides a run, by contents and not by where files lie: a resume must bring the same."""
    init = weights_sha256(network_file(config.init)) if config.init else None
    recipe = config.recipe_values() | {"precision": arithmetic, "init": init}
    counts = {"num_images": len(data.labels), "num_identities": data.num_classes}
    return {
        "recipe": recipe,
        "data": {**counts, "fingerprint": data.fingerprint()},
        "benchmarks": validation.digests if validation else None,
        **describe_reader(config.reader),
    }


def publish(desk: Desk | None, backbone: nn.Module, network: BackboneConfig, *, steps: int) -> None:
    """Write the network that came out, the best where epochs were compared, else the last; the run is whole then."""
    assert desk is not None
    folder, about = desk.folder, {**desk.about, "steps": steps}
    best = folder.folder / BEST
    if best.exists():
        kept = json.loads((best / "config.json").read_text())["about"]["epoch"]
        save_network(folder.folder, load_network(best).module, network, about={**about, "kept": kept})
    else:
        save_network(folder.folder, backbone, network, about=about)
    folder.finish()


def _export(config: TrainConfig) -> None:
    """Write the graph, after the run is whole: what fails here can be tried again without training."""
    if config.onnx and not (config.out / ONNX).exists():
        export_recogniser(config.out, config.out / ONNX)


def _say_left_out(processes: Processes, loader: Loader) -> None:
    if loader.unreadable:
        named = "; ".join(loader.unreadable[:NAMED])
        _say(processes, f"{len(loader.unreadable)} unreadable images were left out: {named}")
    if loader.num_resized:
        _say(processes, f"{loader.num_resized} times an image was scaled to 112x112")


def _say(processes: Processes, line: str) -> None:
    if processes.leads:
        say(line)
