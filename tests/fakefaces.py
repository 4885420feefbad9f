"""Identity folders of coloured patterns: easy to tell apart, quick to make."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw_patterns(folder: Path, *, num_identities: int, images_per_identity: int, seed: int = 0) -> None:
    """`<identity>/<image>.png`, 112x112: each identity one coarse pattern, each image with noise of its own."""
    random = np.random.default_rng(seed)
    for identity in range(num_identities):
        (folder / f"{identity:03d}").mkdir(parents=True)
        coarse = random.integers(30, 226, (4, 4, 3)).repeat(28, axis=0).repeat(28, axis=1)
        for image in range(images_per_identity):
            noisy = np.clip(coarse + random.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{identity:03d}" / f"{image}.png")


def pattern_pairs(folder: Path, *, num_pairs: int, seed: int = 0) -> tuple[list[bytes], np.ndarray]:
    """Encoded images 2i and 2i + 1 of each pair, and whether they are of one identity: every second is."""
    random = np.random.default_rng(seed)
    people = sorted(folder.iterdir())
    images, same = [], np.arange(num_pairs) % 2 == 0
    for alike in same:
        first, second = random.choice(len(people), 2, replace=False)
        chosen = people[first], people[first if alike else second]
        files = [sorted(person.iterdir()) for person in chosen]
        one, two = random.choice(len(files[0]), 2, replace=False)
        images += [files[0][one].read_bytes(), files[1][two].read_bytes()]
    return images, same
