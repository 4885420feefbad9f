"""Copies of a folder of faces that are spoilt on purpose, each in a way of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np


def copy_with(images: Path, out: Path, place: Callable[[Path], list[tuple[str, Path]]]) -> Path:
    """A copy in which `place` says of each image under which identities to put which file in its stead."""
    for image in sorted(images.glob("*/*.png")):
        for identity, source in place(image):
            (out / identity).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, out / identity / f"{image.parent.name}_{image.name}")
    return out


def shuffle_labels(images: Path, out: Path) -> Path:
    """One image in ten under the name of somebody else."""
    files = sorted(images.glob("*/*.png"))
    names = sorted({file.parent.name for file in files})
    rng = np.random.default_rng(0)
    wrong = {files[index] for index in rng.choice(len(files), round(len(files) / 10), replace=False)}

    def place(image: Path) -> list[tuple[str, Path]]:
        others = [name for name in names if name != image.parent.name]
        return [(str(rng.choice(others)) if image in wrong else image.parent.name, image)]

    return copy_with(images, out, place)


def double_identities(images: Path, out: Path) -> Path:
    """Everybody a second time under another name."""
    return copy_with(
        images, out, lambda image: [(image.parent.name, image), (f"{image.parent.name}-twin", image)]
    )


def remove_variety(images: Path, out: Path) -> Path:
    """Of each person one picture, as often as there were pictures."""
    return copy_with(images, out, lambda image: [(image.parent.name, min(image.parent.glob("*.png")))])
