"""Crops and the recogniser's input from the kernel against warp and the recogniser's own rule, bit for bit."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.recogniser import Normalisation
from d2r_fast.kernels.crop import crop, launch_crop, warp_and_normalise
from d2r_fast.kernels.warp import warp

from .kernel_device import DEVICE, MARKS, without_triton

pytestmark = MARKS
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def images(num: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, height, width, 3), dtype=torch.uint8, generator=generator)


def similar(*placements: tuple[float, float, float, float]) -> torch.Tensor:
    """Matrices that turn by an angle, scale and shift."""
    turned = [
        [[s * math.cos(a), -s * math.sin(a), x], [s * math.sin(a), s * math.cos(a), y]]
        for a, s, x, y in placements
    ]
    return torch.tensor(turned, dtype=torch.float64)


MATRICES = similar((0.3, 0.8, 3, -2.5), (2.0, 0.2, 10, 5), (0, 1, 0, 0), (-0.7, 3.1, -40, -20))
BEYOND = similar((0, 1e-6, 5, 5), (1, 1e9, 3, 3), (0, 1, 1e12, -1e12), (0, 2, 0, 0))
"""A whole image in one pixel, a pixel over the whole crop, far outside, and halves to round."""


@pytest.mark.parametrize("matrices", [MATRICES, BEYOND], ids=["usual", "beyond"])
@pytest.mark.parametrize(("height", "width", "size"), [(40, 53, 17), (1, 1, 5), (33, 8, 1), (20, 20, 16)])
def test_the_kernel_gives_the_bits_of_torch(
    height: int, width: int, size: int, matrices: torch.Tensor
) -> None:
    pictures = images(4, height, width)
    for reverse, dtype in ((False, torch.float32), (True, torch.float16)):
        wanted = warp_and_normalise(pictures, matrices, size, MEAN, STD, reverse, dtype)
        ours = launch_crop(pictures.to(DEVICE), matrices.to(DEVICE), size, MEAN, STD, reverse, dtype)
        assert ours.inputs.dtype == dtype
        assert torch.equal(ours.images.cpu(), wanted.images)
        assert torch.equal(ours.inputs.cpu(), wanted.inputs)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_is_the_crop_and_what_the_recogniser_makes_of_it(channels: Literal["rgb", "bgr"]) -> None:
    pictures = images(4, 40, 53)
    ours = crop(
        pictures.to(DEVICE),
        MATRICES.to(DEVICE),
        17,
        mean=MEAN,
        std=STD,
        channels=channels,
        dtype=torch.float32,
    )
    assert torch.equal(ours.images.cpu(), warp(pictures, MATRICES, 17))
    rule = Normalisation(channels, MEAN, STD)
    np.testing.assert_array_equal(ours.inputs.cpu().numpy(), rule(ours.images.cpu().numpy()))


def test_a_crop_does_not_depend_on_the_others() -> None:
    pictures = images(4, 40, 53)
    together = launch_crop(pictures.to(DEVICE), MATRICES.to(DEVICE), 9, HALF, HALF, False, torch.float32)
    for row in (0, 3):
        one = slice(row, row + 1)
        alone = launch_crop(
            pictures[one].to(DEVICE), MATRICES[one].to(DEVICE), 9, HALF, HALF, False, torch.float32
        )
        assert torch.equal(alone.inputs[0], together.inputs[row])
        assert torch.equal(alone.images[0], together.images[row])


def test_no_images() -> None:
    for run in (crop, launch_crop):
        rest: dict[str, Any] = (
            {} if run is crop else {"mean": HALF, "std": HALF, "reverse": False, "dtype": torch.float32}
        )
        none = run(images(0, 8, 8).to(DEVICE), MATRICES[:0].to(DEVICE), 5, **rest)
        assert none.images.shape == (0, 5, 5, 3)
        assert none.inputs.shape == (0, 3, 5, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, m: ((x.float(), m, 8), {}), "images is torch.float32"),
        (lambda x, m: ((x.permute(0, 3, 1, 2), m, 8), {}), r"expected .*\(4, 3, 20, 3\)"),
        (lambda x, m: ((x[:, :, ::2], m, 8), {}), "contiguous"),
        (lambda x, m: ((x[:, :0], m, 8), {}), "with pixels in them"),
        (lambda x, m: ((x[0], m, 8), {}), r"expected \(N, H, W, 3\)"),
        (lambda x, m: ((x, m.float(), 8), {}), "matrices is torch.float32"),
        (lambda x, m: ((x, m[:3], 8), {}), r"matrices is .*\(3, 2, 3\).*expected .*\(4, 2, 3\)"),
        (lambda x, m: ((x, m, 0), {}), "crops of 0 pixels"),
        (lambda x, m: ((x, m, 8), {"dtype": torch.bfloat16}), "as torch.bfloat16"),
        (lambda x, m: ((x, m, 8), {"channels": "gbr"}), "channels 'gbr'"),
        (lambda x, m: ((x, m, 8), {"std": (1.0, 0.0, 1.0)}), "no 0"),
    ],
)
def test_refuses_what_it_cannot_read(change: Callable[..., Any], message: str) -> None:
    given, named = change(images(4, 20, 20).to(DEVICE), MATRICES.to(DEVICE))
    with pytest.raises(ValueError, match=message):
        crop(*given, **named)


def test_the_kernel_needs_triton_and_the_cpu_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    without_triton(monkeypatch)
    if DEVICE == "cpu":
        crop(images(4, 20, 20), MATRICES, 8)
        with pytest.raises(UserError, match=r"pip install 'd2r-fast\[gpu\]'"):
            launch_crop(images(4, 20, 20), MATRICES, 8, HALF, HALF, False, torch.float32)
