"""Verification pairs of a folder of identities, as a .bin file."""

from pathlib import Path

import numpy as np

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import Image, open_source
from d2r_fast.recognition.evaluation.bin_file import write_bin


def make_pairs(source: Path, out: Path, *, num_pairs: int, seed: int) -> None:
    """Write `num_pairs` pairs of images of `source` (`<identity>/<image>.png`), every second one of one identity.

    Kinds alternate, so that each of ten folds holds as many of both. No pair occurs twice.

    Raises:
        UserError: the folder has too few identities or images for as many pairs.
    """
    opened = open_source(source)
    identities = [identity for identity in opened.identities if len(identity.images) >= 2]
    genuine = sum(len(i.images) * (len(i.images) - 1) // 2 for i in identities)
    # Twice as many as are drawn, so that drawing without repetition ends soon.
    if len(identities) < 2 or genuine < num_pairs:
        raise UserError(
            f"{source} has {genuine} pairs of one identity: for {num_pairs} pairs, give it as many or more"
        )
    random = np.random.Generator(np.random.Philox(key=seed))
    images: list[bytes] = []
    seen: set[frozenset[Image]] = set()
    while len(seen) < num_pairs:
        one, two = random.choice(len(identities), 2, replace=False)
        first = identities[one].images
        second = first if len(seen) % 2 == 0 else identities[two].images
        a, b = random.choice(min(len(first), len(second)), 2, replace=False)
        pair = frozenset((first[a], second[b]))
        if pair in seen:
            continue
        seen.add(pair)
        images += [opened.read(first[a]), opened.read(second[b])]
    write_bin(out, images, np.arange(num_pairs) % 2 == 0)
