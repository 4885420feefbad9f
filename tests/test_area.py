"""Area averages through summed-area tables against torch's own adaptive pooling."""

import pytest
import torch
import torch.nn.functional as F

from d2r_fast.kernels.area import crop, integrate, resize


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pooled(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, h, w) as `interpolate` averages areas."""
    return F.interpolate(images.permute(0, 3, 1, 2).float(), size, mode="area")


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 64), (101, 37)])
@pytest.mark.parametrize("size", [(1, 1), (13, 29), (64, 64), (5, 3)])
def test_resize_is_area_interpolation(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """Down, up and unchanged; windows that overlap and windows that do not."""
    images = noise(3, *shape, 3)
    torch.testing.assert_close(resize(integrate(images), size), pooled(images, size), rtol=3e-7, atol=0)


@pytest.mark.parametrize("size", [24, 48])
def test_crop_is_area_interpolation_of_the_slice(size: int) -> None:
    images = noise(2, 60, 90, 3)
    boxes = torch.tensor([[0, 0, 90, 60], [5, 7, 6, 8], [89, 59, 90, 60], [10, 3, 61, 40], [0, 20, 24, 44]])
    which = torch.tensor([1, 0, 1, 0, 1])
    got = crop(integrate(images), which, boxes, size)
    for value, image, (x0, y0, x1, y1) in zip(got, which.tolist(), boxes.tolist(), strict=True):
        want = pooled(images[image : image + 1, y0:y1, x0:x1], (size, size))
        torch.testing.assert_close(value[None], want, rtol=3e-7, atol=0)


def test_a_white_image_stays_white() -> None:
    images = torch.full((1, 300, 200, 3), 255, dtype=torch.uint8)
    assert resize(integrate(images), (17, 11)).eq(255).all()


@pytest.mark.slow
def test_sums_do_not_overflow() -> None:
    images = torch.full((1, 1, 9_000_000, 3), 255, dtype=torch.uint8)
    sums = integrate(images)
    assert sums[0, 1, :, -1].tolist() == [255 * 9_000_000] * 3
