"""What the generator learns from: photographs of people, and what the recogniser finds in them.

blocks/NNNN.npz    whole pictures (n, side, side, 3), crops of them (n, 112, 112, 3) uint8, and who is in them (n,)

A block is a function of the recipe and of its number; one that is there is not drawn again.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.bench.miniature.crops import draw_and_cut
from d2r_fast.bench.miniature.generator.recipe import GENERATOR, MiniatureRecipe
from d2r_fast.bench.miniature.head import open_head
from d2r_fast.engine.device import find_device
from d2r_fast.engine.files import make_folder, write_atomic
from d2r_fast.engine.mtcnn import MTCNN
from d2r_fast.recognition.embedder import Embedder

PEOPLE_PER_BLOCK = 100
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Whole pictures (N, side, side, 3) that hold a face, crops of it (N, 112, 112, 3), and whose it is (N,)."""

    whole: Pixels
    crops: Pixels
    people: NDArray[np.int64]


def draw_pictures(recipe: MiniatureRecipe, facekit: Path, folder: Path, *, device: str) -> Pictures:
    """All that the recipe's generator is trained on, drawn where it is missing.

    Raises:
        UserError: no head there, or a folder that cannot be written to.
        RunError: the disk is full.
    """
    make_folder(folder)
    blocks = list(_blocks(recipe, folder))
    missing = [(path, people) for path, people in blocks if not path.exists()]
    if missing:
        place = find_device(device)
        head, detector = open_head(facekit).to(place), MTCNN(device=place)
        for path, people in missing:
            wanted = [(person, image) for person in people for image in range(recipe.images)]
            parts = draw_and_cut("snapshots", head, detector, wanted, seed=recipe.seed, side=recipe.side)
            held, whole, crops = zip(*parts, strict=True)
            write_block(
                path, torch.cat(whole), torch.cat(crops), [person for part in held for person, _ in part]
            )
    found = [np.load(path) for path, _ in blocks]
    return Pictures(
        *(np.concatenate([block[name] for block in found]) for name in ("whole", "crops", "people"))
    )


def write_block(path: Path, whole: torch.Tensor, crops: torch.Tensor, people: list[int]) -> None:
    """Complete or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, whole=whole.numpy(), crops=crops.numpy(), people=np.array(people, np.int64))
    write_atomic(path, buffer.getvalue())


def embed(embedder: Embedder, crops: Pixels) -> NDArray[np.float32]:
    """Unit embeddings (N, D)."""
    found = embedder(crops)
    unit: NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def _blocks(recipe: MiniatureRecipe, folder: Path) -> Iterator[tuple[Path, range]]:
    for number, first in enumerate(range(0, recipe.identities, PEOPLE_PER_BLOCK)):
        last = min(first + PEOPLE_PER_BLOCK, recipe.identities)
        yield folder / f"{number:04d}.npz", range(GENERATOR + first, GENERATOR + last)
