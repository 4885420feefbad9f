"""Alignment against a float64 Umeyama with SVD, and the warp against exact interpolation and OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from d2r_fast.engine.align import TEMPLATE_112, align, similarity
from d2r_fast.engine.errors import UserError
from d2r_fast.kernels import warp as module
from d2r_fast.kernels.warp import warp
from d2r_fast.kernels.warp_one import warp_one as warp_alone

Array = NDArray[np.float64]


def umeyama(source: Array, target: Array) -> Array:
    """Umeyama 1991, equations 38 to 42, with a positive determinant: (2, 3)."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    covariance = (target - target_mean).T @ (source - source_mean) / len(source)
    u, d, v = np.linalg.svd(covariance)
    sign = np.array([1, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    rotation = u @ np.diag(sign) @ v
    scale = (d * sign).sum() / ((source - source_mean) ** 2).sum(1).mean()
    return np.concatenate([scale * rotation, (target_mean - scale * rotation @ source_mean)[:, None]], 1)


def turned(angle: float, scale: float, shift: tuple[float, float]) -> Array:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def apply(matrix: Array, points: Array) -> Array:
    return points @ matrix[:, :2].T + matrix[:, 2]


def picture(height: int, width: int, *, smooth: float = 0, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3))
    if smooth:
        noise = gaussian_filter(noise, (smooth, smooth, 0))
        noise = 255 * (noise - noise.min()) / np.ptp(noise)
    return noise.round().astype(np.uint8)


def warp_one(image: NDArray[np.uint8], matrix: Array, size: int) -> NDArray[np.uint8]:
    return warp(torch.from_numpy(image)[None], torch.from_numpy(matrix)[None], size)[0].numpy()


def exact(image: NDArray[np.uint8], matrix: Array, size: int) -> Array:
    """float64 bilinear values, 0 at every tap outside."""
    full = np.linalg.inv(np.concatenate([matrix, [[0, 0, 1]]]))
    y, x = np.mgrid[:size, :size]
    place = full @ np.stack([x.ravel(), y.ravel(), np.ones(size * size)])
    planes = [
        map_coordinates(image[..., channel].astype(np.float64), place[1::-1], order=1, mode="grid-constant")
        for channel in range(3)
    ]
    return np.stack(planes, -1).reshape(size, size, 3)


MATRICES = [
    turned(0, 1, (0.5, 0)),
    turned(0.3, 0.4, (10, -7)),
    turned(-1.2, 2.7, (30.25, 11)),
    turned(3.0, 0.9, (100, 90)),
    turned(0.01, 0.21, (-3.3, 4.4)),
]


def test_similarity_is_umeyama() -> None:
    rng = np.random.default_rng(0)
    faces = [
        apply(turned(angle, scale, (x, y)), TEMPLATE_112.astype(np.float64)) + rng.normal(0, noise, (5, 2))
        for angle, scale, x, y, noise in zip(
            rng.uniform(-3, 3, 50), rng.uniform(0.1, 20, 50), rng.uniform(-1e3, 1e3, 50),
            rng.uniform(-1e3, 1e3, 50), rng.uniform(0, 10, 50), strict=True,
        )
    ]  # fmt: skip
    got = similarity(torch.from_numpy(np.stack(faces)))
    assert got.dtype == torch.float64
    want = np.stack([umeyama(face, TEMPLATE_112.astype(np.float64)) for face in faces])
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-9)


def test_similarity_undoes_what_was_done() -> None:
    matrix = turned(0.7, 3.1, (200, 300))
    landmarks = apply(matrix, TEMPLATE_112.astype(np.float64))
    got = similarity(torch.from_numpy(landmarks)[None])[0].numpy()
    np.testing.assert_allclose(apply(got, landmarks), TEMPLATE_112, atol=1e-9)


def test_similarity_never_mirrors() -> None:
    """A face seen in a mirror is turned and scaled as well as may be, with a positive determinant."""
    landmarks = TEMPLATE_112.astype(np.float64) * [-1, 1] + [112, 0]
    got = similarity(torch.from_numpy(landmarks)[None])[0].numpy()
    assert np.linalg.det(got[:, :2]) > 0
    np.testing.assert_allclose(got, umeyama(landmarks, TEMPLATE_112.astype(np.float64)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "scale", "right"), [(112, 1, 0), (224, 2, 0), (128, 1, 8), (256, 2, 16)])
def test_the_template_scales_with_the_crop(size: int, scale: float, right: float) -> None:
    got = similarity(torch.from_numpy(TEMPLATE_112)[None], size)[0].numpy()
    np.testing.assert_allclose(got, [[scale, 0, right], [0, scale, 0]], atol=1e-9)


@pytest.mark.parametrize("size", [0, 96, 160])
def test_other_sizes_have_no_template(size: int) -> None:
    with pytest.raises(UserError, match="112 or 128"):
        similarity(torch.from_numpy(TEMPLATE_112)[None], size)


@pytest.mark.parametrize("broken", [np.full((5, 2), 7.0), np.full((5, 2), np.nan)])
def test_landmarks_without_extent_are_refused(broken: Array) -> None:
    faces = np.stack([TEMPLATE_112, broken.astype(np.float32)])
    with pytest.raises(ValueError, match="landmarks of face 1 fix no similarity"):
        similarity(torch.from_numpy(faces))


@pytest.mark.parametrize("matrix", MATRICES)
def test_warp_is_exact_bilinear(matrix: Array) -> None:
    """White noise, the worst case: within float32 of the exact value before it is rounded."""
    image = picture(75, 101)
    got, want = warp_one(image, matrix, 90), exact(image, matrix, 90)
    assert np.abs(got - want).max() < 0.501
    assert want.max() > 0


@pytest.mark.parametrize("matrix", MATRICES)
def test_warp_agrees_with_opencv(matrix: Array) -> None:
    """OpenCV may round positions to 1/32 pixel, 1/64 off at most: 2 levels where a picture is smooth."""
    image = picture(90, 121, smooth=4)
    want = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    inside = exact(np.full_like(image, 255), matrix, 112) == 255
    difference = np.abs(warp_one(image, matrix, 112).astype(int) - want)
    assert difference[inside].max() <= 2
    # Where a side fades to black it falls by up to 255 a pixel: 255 / 64 in x and in y, and rounding.
    assert difference.max() <= 9
    assert want.max() > 0


def test_identity_and_whole_shifts_are_exact() -> None:
    image = picture(112, 112)
    np.testing.assert_array_equal(warp_one(image, turned(0, 1, (0, 0)), 112), image)
    shifted = np.zeros_like(image)
    shifted[5:, :-3] = image[:-5, 3:]
    np.testing.assert_array_equal(warp_one(image, turned(0, 1, (-3, 5)), 112), shifted)


def test_right_stays_right() -> None:
    image = np.zeros((112, 112, 3), np.uint8)
    image[:, 80:] = 255
    landmarks = torch.from_numpy(TEMPLATE_112)[None]
    crop = align(torch.from_numpy(image)[None], landmarks)[0].numpy()
    np.testing.assert_array_equal(crop, image)


def test_edges_fade_over_one_pixel() -> None:
    image = np.full((4, 4, 3), 200, np.uint8)
    got = warp_one(image, turned(0, 1, (0.5, 0)), 6)[..., 0]
    np.testing.assert_array_equal(got[0], [100, 200, 200, 200, 100, 0])
    np.testing.assert_array_equal(got[4:], 0)


@pytest.mark.parametrize("shift", [1e3, -1e3, 1e12, -1e12])
def test_far_outside_is_black(shift: float) -> None:
    assert not warp_one(picture(9, 9), turned(0.2, 1, (shift, shift)), 8).any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 33), (31, 2)])
def test_warp_takes_odd_sizes(height: int, width: int) -> None:
    image = picture(height, width)
    got = warp_one(image, turned(0.1, 3, (2, 2)), 17)
    assert np.abs(got - exact(image, turned(0.1, 3, (2, 2)), 17)).max() < 0.501


def test_a_crop_does_not_depend_on_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(np.stack([picture(40, 50, seed=seed) for seed in range(5)]))
    matrices = torch.from_numpy(np.stack(MATRICES))
    together = warp(images, matrices, 24)
    monkeypatch.setattr(module, "MAX_PIXELS", 24 * 24 * 2)
    assert torch.equal(warp(images, matrices, 24), together)
    for index in range(5):
        assert torch.equal(
            warp(images[index : index + 1], matrices[index : index + 1], 24)[0], together[index]
        )


def test_one_image_by_numpy_has_the_same_bytes() -> None:
    """All sizes, scales, turns and shears, whole shifts, and far outside."""
    rng = np.random.default_rng(0)
    for case in range(120):
        height, width = (int(side) for side in rng.integers(1, 150, 2))
        image, size = picture(height, width, seed=case), int(rng.choice([7, 96, 112]))
        matrix = turned(rng.uniform(-4, 4), np.exp(rng.uniform(-3, 2)), (0, 0)) + rng.normal(0, 0.02, (2, 3))
        matrix[:, 2] = size / 2 - matrix[:, :2] @ (rng.uniform(-0.3, 1.3, 2) * [width, height])
        if case % 8 == 0:
            matrix = turned(0, 1, (int(rng.integers(-3, 4)), 1e12 * (case % 3 == 0)))
        np.testing.assert_array_equal(warp_alone(image, matrix, size), warp_one(image, matrix, size))


def test_no_images_no_crops() -> None:
    crops = align(torch.zeros(0, 20, 30, 3, dtype=torch.uint8), torch.zeros(0, 5, 2))
    assert crops.shape == (0, 112, 112, 3)
    assert crops.dtype == torch.uint8
