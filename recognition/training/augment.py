"""Augmentation of a batch on its device, every draw a pure function of (seed, epoch, sample).

    inputs = augment(pixels, samples, config=AugmentConfig(set="adaface"), channels="bgr", seed=0, epoch=3)

An augmentation runs on the rows for which it was drawn, all of them at once, on 8-bit values in between as the
published code does one image at a time. `adaface` is Kim et al. 2022 as their training scripts run it: crop,
low resolution, photometric, flip, on data in the network's order of channels. `digiface` is the list of Bae et
al. 2023 on RGB; how strong each one is and their order the paper does not print: see distort.py and below.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch

from d2r_fast.kernels.noise import identity_key, uniform
from d2r_fast.recognition.training import distort, photometric
from d2r_fast.recognition.training.augment_config import AugmentConfig
from d2r_fast.recognition.training.jpeg import jpeg

Channels = Literal["rgb", "bgr"]
Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

FACTORS = (0.5, 1.5)
"""AdaFace's brightness, contrast and saturation. DigiFace's are not printed; the same here."""
HUE_TURNS = (-0.05, 0.05)
JPEG_QUALITY = (30, 95)

_WIDTHS = {
    "crop": 1 + 4 * distort.CROP_TRIES, "low_res": 4, "photometric": 5, "flip": 1, "warp": 7, "blur": 2,
    "motion_blur": 3, "noise": 3, "brightness": 2, "contrast": 2, "saturation": 2, "hue": 2, "gray": 1, "jpeg": 2,
}  # fmt: skip
"""Numbers that each augmentation draws, the first for whether it happens. New ones go to the end: what the
others draw must stay."""
_COLUMNS = {name: sum(list(_WIDTHS.values())[:at]) for at, name in enumerate(_WIDTHS)}
_NUM_DRAWS = sum(_WIDTHS.values())


def augment(
    pixels: torch.Tensor,
    samples: torch.Tensor,
    *,
    config: AugmentConfig,
    channels: Channels,
    seed: int,
    epoch: int,
    draws: torch.Tensor | None = None,
) -> torch.Tensor:
    """A network's input of images: augmented, channels in their order, (x / 255 - 0.5) / 0.5.

    Args:
        pixels: uint8 (N, S, S, 3) RGB on any device; S is a multiple of 16 where JPEG is among them.
        samples: int64 (N,) on the CPU: which image of the training set each row is, below 2**32.
        config: what to apply.
        channels: the network's order.
        seed, epoch: with the sample they name every draw.
        draws: `draw_numbers` of the same samples, where they were drawn ahead.

    Returns:
        float32 (N, 3, S, S) in [-1, 1] on the device of pixels.
    """
    planes = pixels.unbind(3)
    swap_last = channels == "bgr" and config.set == "digiface"
    images = torch.stack(planes[::-1] if channels == "bgr" and not swap_last else planes, 1)
    draws = draw_numbers(samples, config=config, seed=seed, epoch=epoch) if draws is None else draws
    for name, operation in _operations(config).items():
        images = _apply(operation, images, draws[:, _columns(name)], config.probabilities[name])
    if swap_last:
        images = images.flip(1)
    return images.sub(127.5).div_(127.5)


def draw_numbers(samples: torch.Tensor, *, config: AugmentConfig, seed: int, epoch: int) -> torch.Tensor:
    """Uniform numbers in (0, 1) for all augmentations of `samples`: float64 (N, draws) on the CPU."""
    if not config.probabilities:
        return torch.empty(len(samples), 0, dtype=torch.float64)
    keys = torch.zeros(len(samples), 4, dtype=torch.int64)
    keys[:, 0] = identity_key(seed, "augmentation")
    keys[:, 1], keys[:, 2] = samples, epoch
    return uniform(keys, _NUM_DRAWS)


def _columns(name: str) -> slice:
    return slice(_COLUMNS[name], _COLUMNS[name] + _WIDTHS[name])


def _apply(
    operation: Operation, images: torch.Tensor, draws: torch.Tensor, probability: float
) -> torch.Tensor:
    """The images, with those for which the first draw falls below the probability changed."""
    rows = torch.nonzero(draws[:, 0] < probability)[:, 0]
    if not len(rows):
        return images
    where = rows.to(images.device)
    return images.index_copy(0, where, operation(images.index_select(0, where), draws[rows, 1:]).contiguous())


def _operations(config: AugmentConfig) -> dict[str, Operation]:
    """The set's augmentations in their order.

    DigiFace's: where the face lies, then lens and sensor, then light and colour, then storage.
    """
    if config.set == "digiface":
        return {
            "warp": partial(distort.warp, aspect=config.probabilities["aspect"]), "crop": distort.crop,
            "blur": distort.blur, "motion_blur": distort.motion_blur, "noise": distort.noise,
            "brightness": _by_factor(photometric.brightness), "contrast": _by_factor(photometric.contrast),
            "saturation": _by_factor(photometric.saturation), "hue": _hue, "gray": _gray,
            "low_res": distort.low_res, "jpeg": _jpeg, "flip": _flip,
        }  # fmt: skip
    if config.set == "adaface":
        return {"crop": distort.crop, "low_res": distort.low_res, "photometric": _photometric, "flip": _flip}
    return {"flip": _flip} if config.set == "flip" else {}


def _flip(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return images.flip(3)


def _photometric(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    orders = (draws[:, 3] * len(photometric.ORDERS)).long()
    return photometric.jitter(images, distort.span(draws[:, :3], FACTORS), orders)


def _by_factor(change: Operation) -> Operation:
    return lambda images, draws: change(images, distort.span(draws[:, 0], FACTORS))


def _hue(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return photometric.hue(images, distort.span(draws[:, 0], HUE_TURNS))


def _gray(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return photometric.luma(images).to(torch.uint8).expand_as(images)


def _jpeg(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    low, high = JPEG_QUALITY
    return jpeg(images, low + (draws[:, 0] * (high - low + 1)).floor())
