"""Folders of drawn images that do not pair, and short runs over them."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2r_fast.recognition.training.run_folder import read_metrics
from d2r_fast.translation.training.config import TransferConfig

from .conftest import PROGRAM

SMALL: dict[str, Any] = {"size": 32, "batch_size": 2, "ngf": 4, "ndf": 4, "num_blocks": 2, "steps": 6,
                         "log_every": 1, "checkpoint_every": 2, "pictures_every": 100, "device": "cpu"}  # fmt: skip


def draw(path: Path, number: int, *, size: int = 40, warm: bool = False) -> None:
    """A soft blob of a colour and a place of its own; warm ones are redder and coarser."""
    random = np.random.default_rng([number, warm])
    y, x = np.mgrid[0:size, 0:size] / size
    centre, colour = random.uniform(0.3, 0.7, 2), random.uniform(40, 200, 3)
    blob = np.exp(-8 * ((y - centre[0]) ** 2 + (x - centre[1]) ** 2))[..., None]
    grain, cast = random.normal(0, 12, (size, size, 1)), np.array([40, 0, -20])
    pixels = blob * colour + 30 + (grain + cast if warm else 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def draw_pair(root: Path, *, num_source: int = 6, num_target: int = 5, size: int = 40) -> tuple[Path, Path]:
    """Two folders: of identities with two images each, and of loose images."""
    for number in range(num_source):
        draw(root / "renders" / f"{number // 2}" / f"{number % 2}.png", number, size=size)
    for number in range(num_target):
        draw(root / "photos" / f"{number}.png", number, size=size, warm=True)
    return root / "renders", root / "photos"


def config(root: Path, out: Path, **settings: Any) -> TransferConfig:
    """A short run over the folders that `draw_pair` drew at `root`; method decent where nothing else is said."""
    places = {"source": root / "renders", "target": root / "photos", "out": out}
    return TransferConfig(**{"method": "decent"} | SMALL | places | settings)


def command(root: Path, out: Path, **settings: Any) -> list[str]:
    """The same run in a process of its own."""
    values = config(root, out, **settings).model_dump(mode="json", exclude_defaults=True)
    flags = [[f"--{name.replace('_', '-')}", str(value)] for name, value in values.items()]
    return [str(PROGRAM), "train-transfer", *itertools.chain(*flags)]


def story(run: Path) -> Iterator[dict[str, Any]]:
    """The run's metrics but for its speed."""
    for line in read_metrics(run):
        yield {name: value for name, value in line.items() if name != "steps_per_s"}
