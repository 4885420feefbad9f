"""Batched MTCNN against the flow that is commonly run, one image at a time, on images of one size.

First both must find the same boxes. Then they take turns at the same settings, and the batched one once more
with the smallest face that it makes sense to look for in a generated image, where the face fills the frame.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from d2r_fast.bench.context import Bench
from d2r_fast.bench.measure import Arm, compare, interleave
from d2r_fast.bench.plain_mtcnn import PlainMTCNN
from d2r_fast.bench.record import Found
from d2r_fast.bench.targets import target
from d2r_fast.engine.detect import Faces
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.mtcnn import MTCNN
from d2r_fast.engine.samples import cast, draw, stage

SIDE = 512
NUM_IMAGES = (64, 32, 16, 8)
"""As many as the time allows."""
DRAWN_SIDE, NUM_PEOPLE = 128, 12
COMMON_FACE, GENERATED_FACE = 20, 200
"""facenet-pytorch's default, and two thirds of what a face framed as FFHQ does measures in 512 pixels."""
BATCHED, ALONE, TOGETHER = "batched", "one by one", "facenet-pytorch's own batch"
SAME_SETTINGS, GENERATED = "detector over one by one", "detector for generated faces over one by one"
SAME_PIXELS = 1e-3
NUM_ROUNDS = 5
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def measure(bench: Bench, found: Found) -> None:
    """Both detectors at both settings."""
    images = read_images(bench.config.images) if bench.config.images else draw_images()
    images = images[: affordable(images, bench)]
    arms: dict[str, Arm] = {}
    faces: dict[int, list[Faces]] = {}
    for least in (COMMON_FACE, GENERATED_FACE):
        batched = MTCNN(device=bench.device, min_face_size=least)
        alone = PlainMTCNN(device=bench.device, min_face_size=least)
        together = PlainMTCNN(device=bench.device, min_face_size=least, together=True)
        faces[least] = batched(images)
        worst = largest_difference(faces[least], alone(images))
        found.finding(f"largest difference of a box at {least} pixels", worst, unit=" pixels")
        for name, detector in ((BATCHED, batched), (ALONE, alone), (TOGETHER, together)):
            arms[f"{name}, faces from {least} pixels"] = partial(detector, images)
    timings = interleave(arms, num_rounds=NUM_ROUNDS, most_s=bench.budget.left_s * 0.7, device=bench.device)
    for name, timing in timings.items():
        found.row(name, num_images=len(images), side=SIDE, **timing.row(len(images)))
    slow = timings[f"{ALONE}, faces from {COMMON_FACE} pixels"]
    note = ", ".join(f"{sum(map(len, faces[least]))} faces from {least} pixels" for least in faces)
    for title, least in ((SAME_SETTINGS, COMMON_FACE), (GENERATED, GENERATED_FACE)):
        ratio = compare(slow, timings[f"{BATCHED}, faces from {least} pixels"])
        found.ratio(title, ratio, target=target(title, bench.kind), note=note)


def affordable(images: torch.Tensor, bench: Bench) -> int:
    """As many images as all arms look at four times in the time."""
    detector = PlainMTCNN(device=bench.device, min_face_size=COMMON_FACE)
    one_s = interleave({ALONE: partial(detector, images[:2])}, num_rounds=3)[ALONE].median_s / 2
    # The other arms together take about three times as long as this one.
    most = bench.budget.left_s / (4 * 4 * one_s)
    return next((num for num in NUM_IMAGES if num <= most), NUM_IMAGES[-1])


def largest_difference(given: Sequence[Faces], wanted: Sequence[Faces]) -> float:
    """The largest distance, in pixels, between coordinates of boxes that should be the same.

    Raises:
        RunError: other faces were found, or a box is further off than `SAME_PIXELS`.
    """
    counts = [(len(a), len(b)) for a, b in zip(given, wanted, strict=True)]
    if any(a != b for a, b in counts):
        raise RunError(f"detectors find different faces, {counts}: times of unequal work are not compared")
    pairs = [(a.boxes, b.boxes) for a, b in zip(given, wanted, strict=True) if len(a)]
    worst = max((float(np.abs(ours - theirs).max()) for ours, theirs in pairs), default=0.0)
    if worst > SAME_PIXELS:
        raise RunError(f"boxes differ by {worst:g} pixels, allowed {SAME_PIXELS:g}: times are not compared")
    return worst


def draw_images() -> torch.Tensor:
    """Drawn faces, which MTCNN takes for faces: uint8 (64, 512, 512, 3).

    A dozen people drawn small and enlarged, each repeated a little darker: drawing takes seconds at full size.
    """
    small = [draw(cast(person), stage(person, 0), DRAWN_SIDE) for person in range(NUM_PEOPLE)]
    large = np.stack(
        [np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for picture in small]
    )
    shades = [large - large // 64 * shade for shade in range(-(-NUM_IMAGES[0] // NUM_PEOPLE))]
    return torch.from_numpy(np.concatenate(shades)[: NUM_IMAGES[0]])


def read_images(folder: Path) -> torch.Tensor:
    """The top squares of a folder's images, repeated until there are 64: uint8 (64, 512, 512, 3).

    Raises:
        UserError: there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"images {folder} holds none of {', '.join(SUFFIXES)}: give a folder of photographs")
    squares = []
    for path in paths[: NUM_IMAGES[0]]:
        with Image.open(path) as image:
            width = min(image.size)
            picture = image.convert("RGB").resize((SIDE, SIDE), box=(0, 0, width, width))
            squares.append(np.asarray(picture))
    repeated = [squares[place % len(squares)] for place in range(NUM_IMAGES[0])]
    return torch.from_numpy(np.stack(repeated))
