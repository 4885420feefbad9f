"""The `train-transfer` command: two folders and a recipe in, a run folder with a generator out.

d2r-fast train-transfer --method decent --source renders --target photographs --out run

run.json            recipe and images: a run that would train anything else is refused
metrics.jsonl       losses and learning rates, a line for every so many steps
grid-STEP.png       source, translated, target
checkpoint.pt       all networks and optimisers, replaced whole
generator.pth       the generator in its publisher's layout, for translate --weights
_SUCCESS            written last
"""

import io
import os
from contextlib import closing, nullcontext
from typing import Any

import torch

from d2r_fast.engine.backends.cuda import compute_exactly
from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file, write_atomic
from d2r_fast.recognition.training.run_folder import RunFolder
from d2r_fast.translation.checkpoint import GENERATOR
from d2r_fast.translation.training.config import TransferConfig
from d2r_fast.translation.training.objective import Objective
from d2r_fast.translation.training.objectives import objective_of
from d2r_fast.translation.training.pictures import PictureBoard
from d2r_fast.translation.training.seeds import seed_of
from d2r_fast.translation.training.trainer import TransferTrainer
from d2r_fast.translation.training.unpaired import Folder, UnpairedLoader

_NAMED = 10


def train_transfer(config: TransferConfig) -> int:
    """Train a generator into config.out, from where an earlier try stopped; returns the exit status.

    No label and no face-recognition network takes part; what folders images lie in is not looked at.

    Raises:
        UserError: folders, weights or settings cannot be used.
        RunError: a loss is not a number, too many images are unreadable, memory or the disk is full.
    """
    device = torch.device(find_device(config.device))
    compute_exactly(str(device))  # a resumed run must not differ
    source, target = Folder("source", config.source), Folder("target", config.target)
    for folder in (source, target):
        folder.check(batch_size=config.batch_size, out=config.out)
    objective_of(config.method).check(config)
    board = PictureBoard(config.out / "tensorboard") if config.tensorboard else None
    document = describe(config, source, target)
    with RunFolder.open(config.out, document) as run, closing(board) if board else nullcontext():
        if run.finished:
            say(f"{config.out} is finished already")
            return 0
        loader = open_loader(config, source, target, device)
        say(
            f"{len(source):,} source and {len(target):,} target images, labels unused; {config.method} at "
            f"{config.size} pixels, {loader.num_steps:,} steps of {config.batch_size}"
        )
        objective = build_objective(config, loader, device)
        trainer = TransferTrainer(config, objective, loader, folder=run, board=board)
        trainer.run()
        with trainer.result():
            publish(run, objective)
    _say_left_out(loader)
    say(f"trained {config.out}: translate --method {config.method} --weights {config.out}")
    return 0


def describe(config: TransferConfig, source: Folder, target: Folder) -> dict[str, Any]:
    """What decides a run, wherever its files lie: images by their names, VGG-19 by its bytes. A resume must bring the
    same."""
    recipe = config.recipe_values() | {"vgg": _digest_of_vgg(config)}
    return {"kind": "transfer", "recipe": recipe, "source": source.describe(), "target": target.describe()}


def _digest_of_vgg(config: TransferConfig) -> str | None:
    if config.vgg is None:
        return None
    try:
        return sha256_file(config.vgg)
    except OSError as error:
        raise UserError(
            f"vgg {config.vgg} cannot be read ({error.strerror}): give torchvision's VGG-19 weights"
        ) from None


def open_loader(
    config: TransferConfig, source: Folder, target: Folder, device: torch.device
) -> UnpairedLoader:
    """Reads the images of every step of the run."""
    return UnpairedLoader(
        source,
        target,
        config,
        num_steps=config.num_steps(num_source=len(source), num_target=len(target)),
        sources=objective_of(config.method).SOURCES,
        device=device,
        num_threads=config.num_threads or len(os.sched_getaffinity(0)),
        max_unreadable=config.max_unreadable,
    )


def build_objective(config: TransferConfig, loader: UnpairedLoader, device: torch.device) -> Objective:
    """Networks and optimisers with their first weights, on the device."""
    method = objective_of(config.method)
    source, target = (images.cpu() for images in loader.examples(config.batch_size))
    return method.build(
        config,
        seed=seed_of(config.seed, "weights"),
        device=device,
        example=(source.repeat(method.SOURCES, 1, 1, 1), target),
    )


def publish(run: RunFolder, objective: Objective) -> None:
    """Write the generator that came out; the run is whole then."""
    buffer = io.BytesIO()
    torch.save(objective.generator_tensors(), buffer)
    write_atomic(run.folder / GENERATOR, buffer.getvalue())
    run.finish()


def _say_left_out(loader: UnpairedLoader) -> None:
    if loader.faults:
        named = "; ".join(f"{name}: {reason}" for name, reason in list(loader.faults.items())[:_NAMED])
        say(f"{len(loader.faults)} unreadable images were passed over: {named}")
