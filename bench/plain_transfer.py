"""Training steps as a plain loop takes them, and as `train-transfer` does: the same losses and updates.

The plain loop opens, scales, crops and mirrors the images of a step with Pillow, then takes the step, in turn, with
weights in torch's default memory layout. Ours reads ahead in threads, keeps scaled images, and on a card lays weights
out channels last; on a CPU both lay them out alike.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from d2r_fast.engine.backends.cuda import compute_exactly
from d2r_fast.translation.training.config import TransferConfig, TransferMethod
from d2r_fast.translation.training.objective import Objective
from d2r_fast.translation.training.seeds import torch_draws
from d2r_fast.translation.training.train_transfer import build_objective, open_loader
from d2r_fast.translation.training.unpaired import Folder

PLAIN, OURS = "a plain loop", "train-transfer"


def transfer_arms(
    method: TransferMethod, images: Path, *, num_steps: int, size: int, ngf: int, num_blocks: int, device: str
) -> dict[str, Callable[[], object]]:
    """The two loops; a call takes `num_steps` more steps. Both domains are the same images, which speed does not mind.

    Args:
        method: decent or unsb.
        size: pixels of the crops.
        ngf: channels of the first layer of generator and discriminator.
    """
    compute_exactly(device)
    config = TransferConfig(
        method=method, source=images, target=images, out=images, size=size, steps=1_000_000, ngf=ngf, ndf=ngf,
        num_blocks=num_blocks, device=device,
    )  # fmt: skip
    source, target = Folder("source", images), Folder("target", images)
    place = torch.device(device)
    loader = open_loader(config, source, target, place)
    ours, theirs = (build_objective(config, loader, place) for _ in range(2))
    for module in theirs.modules.values():
        lay_out_plainly(module)
    plain = read_plainly(sorted(images.rglob("*.png")), config, num_sources=theirs.SOURCES, device=place)
    return {
        PLAIN: Loop(plain, theirs, num_steps=num_steps, num_steps_of_all=loader.num_steps),
        OURS: Loop(loader.batches(start=0), ours, num_steps=num_steps, num_steps_of_all=loader.num_steps),
    }


def lay_out_plainly(module: nn.Module) -> None:
    """Weights in torch's default layout, in place."""
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()


Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def read_plainly(
    files: Sequence[Path], config: TransferConfig, *, num_sources: int, device: torch.device
) -> Batches:
    """Source and target images of every step, read when they are asked for."""
    random = np.random.default_rng(0)

    def read(num: int) -> torch.Tensor:
        rows = [_crop(files[int(random.integers(len(files)))], config, random) for _ in range(num)]
        return torch.stack(rows).to(device)

    while True:
        yield read(num_sources * config.batch_size), read(config.batch_size)


def _crop(file: Path, config: TransferConfig, random: np.random.Generator) -> torch.Tensor:
    side, size = config.scaled_size, config.size
    image = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    left, top = random.integers(0, side - size + 1, 2).tolist()
    image = image.crop((left, top, left + size, top + size))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


class Loop:
    """Steps of an objective: a call takes the next `num_steps` of `num_steps_of_all`."""

    def __init__(
        self, batches: Batches, objective: Objective, *, num_steps: int, num_steps_of_all: int
    ) -> None:
        self._batches, self._objective = batches, objective
        self._num_steps, self._num_steps_of_all = num_steps, num_steps_of_all
        self._step = 0

    def __call__(self) -> None:
        for _ in range(self._num_steps):
            source, target = next(self._batches)
            self._objective.set_learning_rates(self._step, num_steps=self._num_steps_of_all)
            self._objective.step(source, target, draws=torch_draws(0, f"draws of step {self._step}"))
            self._step += 1
