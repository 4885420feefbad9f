"""One column of a comparison: every picture through one method, and how long that took."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from d2r_fast.engine.console import Meter
from d2r_fast.kernels.noise import identity_key
from d2r_fast.translation.compare.pictures import Picture, Pixels
from d2r_fast.translation.images import translate_images
from d2r_fast.translation.method import Method, Run, Size, Unfit

Open = Callable[[Size], Mapping[str, Run]]
"""A method's networks for a size of image."""


@dataclass(frozen=True)
class Translated:
    """What became of the pictures, in their order.

    Attributes:
        pictures: translated pixels; None where it failed.
        reasons: why it failed, by the picture's name.
        seconds_per_image: of preparing, running and finishing, networks open and warm; neither decoding nor writing.
            None where nothing could be translated.
        batch_size: pictures of one call.
    """

    pictures: tuple[Pixels | None, ...]
    reasons: dict[str, str]
    seconds_per_image: float | None
    batch_size: int


def run_column(
    method: Method, open_networks: Open, pictures: Sequence[Picture], *, title: str, batch_size: int, device: str,
    seed: int, clock: Callable[[], float] = time.perf_counter,
) -> Translated:  # fmt: skip
    """Translate pictures, those of one size together.

    Raises:
        UserError: weights or an engine cannot be used.
        RunError: a network failed.
    """
    found: list[Pixels | None] = [None] * len(pictures)
    reasons: dict[str, str] = {}
    timed_s, num_timed = 0.0, 0
    places = sorted(range(len(pictures)), key=lambda place: pictures[place].pixels.shape[:2])
    with Meter(title, total=len(pictures)) as meter:
        for size, members in groupby(places, key=lambda place: _size(pictures[place])):
            group = list(members)
            try:
                method.check(size)
            except Unfit as error:
                reasons |= {pictures[place].name: error.reason for place in group}
                continue
            networks = open_networks(size)
            warming = [pictures[place] for place in group[: num_warming(batch_size, device)]]
            _translate(method, networks, warming, device=device, seed=seed)
            for first in range(0, len(group), batch_size):
                part = group[first : first + batch_size]
                begun_s = clock()
                pixels, finite = _translate(
                    method, networks, [pictures[p] for p in part], device=device, seed=seed
                )
                timed_s, num_timed = timed_s + clock() - begun_s, num_timed + len(part)
                for place, image, good in zip(part, pixels, finite.tolist(), strict=True):
                    if good:
                        found[place] = image.numpy()
                    else:
                        reasons[pictures[place].name] = "not a finite number"
                meter.advance(len(part))
    seconds = timed_s / num_timed if num_timed else None
    return Translated(tuple(found), reasons, seconds, batch_size)


def num_warming(batch_size: int, device: str) -> int:
    """Pictures to translate before the clock starts: a full batch, whose shapes a card then knows, or on a CPU, where
    every thread runs one at a time, one for each."""
    return min(batch_size, torch.get_num_threads()) if device == "cpu" else batch_size


def _translate(
    method: Method, networks: Mapping[str, Run], pictures: Sequence[Picture], *, device: str, seed: int
) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (B, H, W, 3) and which are finite, on the CPU, so that the work is done when it returns."""
    images = torch.stack([torch.tensor(picture.pixels) for picture in pictures]).to(device)
    keys = torch.tensor(
        [[identity_key(seed, picture.image.identity), picture.number] for picture in pictures],
        dtype=torch.int64,
    )
    pixels, finite = translate_images(method, networks, images, keys)
    return pixels.cpu(), finite.cpu()


def _size(picture: Picture) -> Size:
    height, width = picture.pixels.shape[:2]
    return height, width
