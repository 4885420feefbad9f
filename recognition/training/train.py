"""The `train` command: data and recipe in, a run folder with a network out.

d2r-fast train --data digi2real --out run --recipe digi2real
"""

import json
import os
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

from d2r_fast.engine.backends.cuda import compute_exactly
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import write_atomic
from d2r_fast.engine.marker import dump
from d2r_fast.recognition.backbone import build_backbone, lay_out
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.heads import build_head
from d2r_fast.recognition.network_file import load_network, save_network
from d2r_fast.recognition.training.augment_config import AugmentConfig
from d2r_fast.recognition.training.board import Board
from d2r_fast.recognition.training.classifier import Classifier
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.recognition.training.distributed import Processes, joined
from d2r_fast.recognition.training.loader import Loader
from d2r_fast.recognition.training.run_folder import BEST, RunFolder, make_folder, read_metrics
from d2r_fast.recognition.training.sync_norm import synchronise
from d2r_fast.recognition.training.trainer import Trainer, order_of
from d2r_fast.recognition.training.training_set import TrainingSet, check_training_set, mix, open_training_set
from d2r_fast.recognition.training.validation import Validation

SEEDS = "seeds.json"
NAMED = 10
"""Unreadable images to name."""


def train(config: TrainConfig) -> int:
    """Train one network, or one for every seed; returns the exit status.

    Raises:
        UserError: data, a network or a folder cannot be used.
        RunError: the loss is not a number, too many images are unreadable, the disk is full.
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
        if processes.leads:
            make_folder(config.out)
        runs = [_of_seed(config, config.seed + number) for number in range(config.seeds)]
        for run in runs:
            train_one(run, processes)
        if processes.leads:
            report_seeds(config.out, [run.out for run in runs])
    return 0


def _of_seed(config: TrainConfig, seed: int) -> TrainConfig:
    values = {name: getattr(config, name) for name in TrainConfig.model_fields}
    return TrainConfig(**values | {"seed": seed, "seeds": 1, "out": config.out / f"seed-{seed}"})


def train_one(config: TrainConfig, processes: Processes) -> None:
    """Train the network of one seed into config.out, from where an earlier try stopped."""
    data = open_data(config)
    order_of(config, data, processes, epoch=0)  # refuses too large a batch before anything is written
    network = network_of(config)
    document = {"recipe": config.recipe_values(), "data": describe(data)}
    classifier = build_classifier(config, network, data.num_classes, processes)
    board = Board(config.out / "tensorboard") if config.tensorboard and processes.leads else None
    folder = RunFolder.open(config.out, document) if processes.leads else None
    processes.wait()
    try:
        if processes.tell(int(folder is not None and folder.finished)):
            _say(processes, f"{config.out} is finished already")
            return
        about = {**document, "torch": torch.__version__}
        trainer = Trainer(
            config, classifier, data, open_loader(config, data, network, processes), processes=processes,
            folder=folder, validation=open_validation(config, network, processes, about), board=board,
        )  # fmt: skip
        _say(processes, opening_line(config, data, classifier))
        trainer.run()
        _say_left_out(processes, trainer.loader)
        if folder is not None:
            publish(folder, classifier.backbone, network, about=about, steps=trainer.place.step)
            _say(processes, f"trained {config.out}")
    finally:
        if folder is not None:
            folder.__exit__(None, None, None)


def open_data(config: TrainConfig) -> TrainingSet:
    """The images to train on, checked; real ones mixed in where there are any."""
    data = open_training_set(config.data, num_identities=config.identities, seed=config.seed)
    if config.real is None:
        return data
    return mix(data, open_training_set(config.real, num_identities=config.real_identities, seed=config.seed))


def describe(data: TrainingSet) -> dict[str, Any]:
    return {"name": data.name, "num_images": len(data.labels), "num_identities": data.num_classes,
            "fingerprint": data.fingerprint()}  # fmt: skip


def network_of(config: TrainConfig) -> BackboneConfig:
    return BackboneConfig(
        name=config.backbone, layout=config.layout, width=config.width, embedding_dim=config.embedding_dim,
        dropout=config.dropout,
    )  # fmt: skip


def build_classifier(
    config: TrainConfig, network: BackboneConfig, num_classes: int, processes: Processes
) -> Classifier:
    """Backbone and head on the device, with their first weights."""
    backbone = first_weights(config, network)
    head = build_head(
        config.head, embedding_dim=config.embedding_dim, num_classes=num_classes, seed=config.seed,
        margin=config.margin, scale=config.scale, h=config.h, t_alpha=config.t_alpha, group=processes.group,
    )  # fmt: skip
    backbone = lay_out(backbone, network, str(processes.device))
    if config.sync_batch_norm:
        backbone = synchronise(backbone, processes)
    if config.compile:
        backbone.compile()
    lower = config.precision == "bf16" or (config.precision == "auto" and processes.device.type == "cuda")
    classifier = Classifier(backbone, head, dtype=torch.bfloat16 if lower else torch.float32)
    return classifier.to(processes.device)


def first_weights(config: TrainConfig, network: BackboneConfig) -> nn.Module:
    """Random weights of the seed, or those of --init.

    Raises:
        UserError: --init is another network.
    """
    backbone = build_backbone(network, seed=config.seed)
    if config.init is None:
        return backbone
    loaded = load_network(config.init)
    keys = ("name", "layout", "width", "embedding_dim")
    differing = [key for key in keys if getattr(loaded.config, key) != getattr(network, key)]
    other = [f"{key} {getattr(loaded.config, key)}" for key in differing]
    if differing:
        raise UserError(
            f"init {config.init} is another network, of {', '.join(other)}: give a recipe that fits it"
        )
    backbone.load_state_dict(loaded.module.state_dict())
    return backbone


def open_loader(
    config: TrainConfig, data: TrainingSet, network: BackboneConfig, processes: Processes
) -> Loader:
    chance = config.augment_probability
    chances = {} if chance is None else {"crop": chance, "low_res": chance, "photometric": chance}
    augment = AugmentConfig(set=config.augment, **chances)
    return Loader(
        data, device=str(processes.device), channels=network.channel_order, augment=augment,
        num_threads=config.num_threads or len(os.sched_getaffinity(0)), max_unreadable=config.max_unreadable,
    )  # fmt: skip


def open_validation(
    config: TrainConfig, network: BackboneConfig, processes: Processes, about: dict[str, Any]
) -> Validation | None:
    """The same on every process, though only the one that leads measures."""
    if config.benchmarks is None:
        return None
    return Validation(
        config.benchmarks, network, device=str(processes.device), best=config.out / BEST, about=about
    )


def publish(
    folder: RunFolder, backbone: nn.Module, network: BackboneConfig, *, about: dict[str, Any], steps: int
) -> None:
    """Write the network that came out, the best where epochs were compared, and say that the run is whole."""
    best = folder.folder / BEST
    if best.exists():
        loaded = load_network(best)
        about = {
            **about,
            "steps": steps,
            "kept": json.loads((best / "config.json").read_text())["about"]["epoch"],
        }
        save_network(folder.folder, loaded.module, network, about=about)
    else:
        save_network(folder.folder, backbone, network, about={**about, "steps": steps})
    folder.finish()


def opening_line(config: TrainConfig, data: TrainingSet, classifier: Classifier) -> str:
    num = sum(parameter.numel() for parameter in classifier.backbone.parameters())
    return (
        f"{check_training_set(data).line()}; {config.backbone} {config.layout}, "
        f"{num / 1e6:.1f} M parameters; {config.epochs} epochs of batch {config.batch_size}"
    )


def report_seeds(out: Path, runs: list[Path]) -> None:
    """Write and print mean and sample standard deviation of the runs' best accuracies."""
    found = {run.name: _best(run) for run in runs}
    sets = [name for name in found[runs[0].name] if all(name in values for values in found.values())]
    columns = {name: [values[name] for values in found.values()] for name in sets}
    summary = {
        name: {"mean": mean(column), "std": stdev(column), "runs": column} for name, column in columns.items()
    }
    write_atomic(out / SEEDS, dump({"runs": list(found), "accuracy": summary}))
    for name, column in columns.items():
        print(f"{name}: {100 * mean(column):.2f} +- {100 * stdev(column):.2f} over {len(runs)} seeds")
    if not summary:
        print(f"trained {len(runs)} seeds into {out}; `d2r-fast evaluate {out}` compares them")


def _best(run: Path) -> dict[str, float]:
    lines = [line for line in read_metrics(run) if "accuracies" in line]
    if not lines:
        return {}
    best = max(lines, key=lambda line: line["accuracy"])
    return {**best["accuracies"], "mean": best["accuracy"]}


def _say_left_out(processes: Processes, loader: Loader) -> None:
    if loader.unreadable:
        named = "; ".join(loader.unreadable[:NAMED])
        _say(processes, f"{len(loader.unreadable)} unreadable images were left out: {named}")


def _say(processes: Processes, line: str) -> None:
    if processes.leads:
        say(line)
