"""What the generator learns from: photographs of people, and what the recogniser finds in them.

blocks/NNNN.npz    whole pictures (n, side, side, 3), crops of them (n, 112, 112, 3) uint8, and who is in them (n,)

A block is a function of the recipe and of its number; one that is there is not drawn again.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.bench.miniature.crops import draw_and_cut
from d2r_fast.bench.miniature.generator.recipe import GENERATOR, MiniatureRecipe
from d2r_fast.bench.miniature.head import open_head
from d2r_fast.engine.device import find_device
from d2r_fast.engine.files import write_atomic
from d2r_fast.engine.mtcnn import MTCNN

PEOPLE_PER_BLOCK = 100
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Whole pictures (N, side, side, 3) that hold a face, crops of it (N, 112, 112, 3), and whose it is (N,)."""

    whole: Pixels
    crops: Pixels
    people: NDArray[np.int64]


def missing_blocks(recipe: MiniatureRecipe, folder: Path) -> list[tuple[Path, range]]:
    """Files that are not there yet, and who belongs into each."""
    return [(path, people) for path, people in _blocks(recipe, folder) if not path.exists()]


def draw_block(recipe: MiniatureRecipe, facekit: Path, path: Path, people: range, *, device: str) -> None:
    """Draw `people` into the block at `path`.

    Raises:
        UserError: no head there, or a folder that cannot be written to.
        RunError: the disk is full.
    """
    place = find_device(device)
    head, detector = open_head(facekit).to(place), MTCNN(device=place)
    wanted = [(person, image) for person in people for image in range(recipe.images)]
    parts = draw_and_cut("snapshots", head, detector, wanted, seed=recipe.seed, side=recipe.side)
    held, whole, crops = zip(*parts, strict=True)
    write_block(path, torch.cat(whole), torch.cat(crops), [person for part in held for person, _ in part])


def read_pictures(recipe: MiniatureRecipe, folder: Path) -> Pictures:
    """All that the recipe's generator is trained on, every block of which is there."""
    found = [np.load(path) for path, _ in _blocks(recipe, folder)]
    return Pictures(
        *(np.concatenate([block[name] for block in found]) for name in ("whole", "crops", "people"))
    )


def write_block(path: Path, whole: torch.Tensor, crops: torch.Tensor, people: list[int]) -> None:
    """Complete or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, whole=whole.numpy(), crops=crops.numpy(), people=np.array(people, np.int64))
    write_atomic(path, buffer.getvalue())


def embed(embedder: Callable[[Pixels], NDArray[np.float32]], crops: Pixels) -> NDArray[np.float32]:
    """Unit embeddings (N, D)."""
    found = embedder(crops)
    unit: NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def _blocks(recipe: MiniatureRecipe, folder: Path) -> Iterator[tuple[Path, range]]:
    for number, first in enumerate(range(0, recipe.identities, PEOPLE_PER_BLOCK)):
        last = min(first + PEOPLE_PER_BLOCK, recipe.identities)
        yield folder / f"{number:04d}.npz", range(GENERATOR + first, GENERATOR + last)
