"""Crops as every pipeline takes them: a picture, the one face that MTCNN finds in it, and the crop by its landmarks.

What is drawn, what is generated and what is verified are cut alike; a picture in which no face is found, or more than
one, is dropped, as from every real dataset.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.bench.miniature.domains import Domain, draw
from d2r_fast.bench.miniature.head import Head, open_head
from d2r_fast.bench.miniature.render import BATCH, Picture, missing_pictures, write_picture
from d2r_fast.engine.accept import judge
from d2r_fast.engine.align import align
from d2r_fast.engine.console import Meter
from d2r_fast.engine.device import find_device
from d2r_fast.engine.mtcnn import MTCNN
from d2r_fast.recognition.iresnet import IMAGE_SIZE

SIDE = 128
"""Pixels of the pictures, of which a crop shows about three quarters."""
PEOPLE_AT_ONCE = 20
"""For one of several processes, each of which reads the head."""


def cut(pictures: torch.Tensor, detector: MTCNN) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Crops uint8 (n, 112, 112, 3) of the pictures uint8 (N, H, W, 3) that hold one face, and which those are (N,)."""
    faces = detector(pictures)
    good = np.array([judge(found, finite=True) is None for found in faces])
    if not good.any():
        return torch.zeros((0, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8), good
    landmarks = np.stack([found.landmarks[0] for found, fine in zip(faces, good, strict=True) if fine])
    return align(pictures[torch.from_numpy(good)], torch.from_numpy(landmarks)), good


def draw_and_cut(
    domain: Domain, head: Head, detector: MTCNN, wanted: Iterable[Picture], *, seed: int, side: int = SIDE
) -> Iterator[tuple[list[Picture], torch.Tensor, torch.Tensor]]:
    """Some at a time: which of them hold a face, those pictures (n, side, side, 3) and their crops (n, 112, 112, 3)."""
    rest = list(wanted)
    with Meter(domain, total=len(rest)) as meter:
        for first in range(0, len(rest), BATCH):
            part = rest[first : first + BATCH]
            pictures = draw(domain, head, part, seed=seed, side=side, framing="portrait")
            crops, good = cut(pictures, detector)
            held = [picture for picture, fine in zip(part, good, strict=True) if fine]
            yield held, pictures[torch.from_numpy(good)], crops
            meter.advance(len(part))


def crop_domain(
    domain: Domain, facekit: Path, out: Path, *, identities: range, images_per_identity: int, seed: int = 0,
    device: str = "cpu",
) -> None:  # fmt: skip
    """Write crops of `identities` of the world `seed` as <identity>/<image>.png; what is there already is left alone.

    A crop depends on domain, seed, identity and image alone. A number whose picture holds no face is left out.

    Raises:
        UserError: `facekit` is no head, or `out` cannot be written to.
        RunError: the disk is full.
    """
    wanted = missing_pictures(out, identities, images_per_identity)
    if not wanted:
        return
    place = find_device(device)
    head, detector = open_head(facekit).to(place), MTCNN(device=place)
    for held, _, crops in draw_and_cut(domain, head, detector, wanted, seed=seed):
        for (identity, image), crop in zip(held, crops, strict=True):
            write_picture(out, identity, image, crop)


def submit_crops(
    pool: Executor, domain: Domain, facekit: Path, out: Path, *, identities: range, images_per_identity: int,
    seed: int = 0, device: str = "cpu",
) -> list[Future[None]]:  # fmt: skip
    """The same crops as `crop_domain`'s, some people at a time by the processes of `pool`."""
    parts = [
        identities[first : first + PEOPLE_AT_ONCE] for first in range(0, len(identities), PEOPLE_AT_ONCE)
    ]
    return [
        pool.submit(
            crop_domain, domain, facekit, out, identities=part, images_per_identity=images_per_identity, seed=seed,
            device=device,
        )
        for part in parts
    ]  # fmt: skip
