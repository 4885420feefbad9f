"""Augmentation: against OpenCV and Pillow, its probabilities, and what its draws depend on."""

import colorsys
import io
import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.training import augment as augment_module
from d2r_fast.recognition.training import distort, photometric
from d2r_fast.recognition.training.augment import augment, draw_numbers
from d2r_fast.recognition.training.augment_config import OWN, AugmentConfig
from d2r_fast.recognition.training.jpeg import jpeg
from d2r_fast.recognition.training.resample import INTERPOLATIONS, down_up, resize_matrix, separable

SIDE = 112
OPENCV = dict(
    zip(
        INTERPOLATIONS,
        (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4),
        strict=True,
    )
)


def pictures() -> np.ndarray:
    """uint8 (4, 112, 112, 3): two of noise, two smooth as photographs are."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    smooth = [
        np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in small
    ]
    return np.concatenate([rng.integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8), np.stack(smooth)])


PICTURES = pictures()


def planar(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def packed(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy().astype(int)


def draws(num: int, width: int, *, seed: int = 0) -> torch.Tensor:
    return torch.rand(num, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def opencv(images: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    return np.stack(
        [cv2.resize(image, (size, size), interpolation=OPENCV[interpolation]) for image in images]
    )


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_scaling_equals_opencv(interpolation: str):
    """Every size down and up, within one level; mostly to the level, since the weights are OpenCV's own."""
    differing = []
    for size in range(1, SIDE + 1):
        down = torch.from_numpy(resize_matrix(interpolation, SIDE, size)).expand(4, -1, -1)
        small = np.ascontiguousarray(PICTURES[:, :size, :size])
        up = torch.from_numpy(resize_matrix(interpolation, size, SIDE)).expand(4, -1, -1)
        for images, matrix, target in ((PICTURES, down, size), (small, up, SIDE)):
            gap = np.abs(packed(separable(planar(images), matrix)) - opencv(images, target, interpolation))
            assert gap.max() <= 1, (size, target)
            differing.append((gap > 0).mean())
    # OpenCV rounds between columns and rows where it is linear (area enlarges linearly) or cubic.
    most = {"nearest": 0.0, "linear": 0.15, "area": 0.05, "cubic": 0.05, "lanczos4": 0.0}
    assert np.mean(differing) <= most[interpolation]


@pytest.mark.parametrize("down", INTERPOLATIONS)
@pytest.mark.parametrize("up", INTERPOLATIONS)
def test_down_and_up_equals_opencv(down: str, up: str):
    """Rounded to 8 bits in between; sizes differ within the batch."""
    sizes = [22, 56, 75, 111]
    small = [opencv(image[None], size, down)[0] for image, size in zip(PICTURES, sizes, strict=True)]
    expected = np.stack([opencv(image[None], SIDE, up)[0] for image in small])
    kinds = [torch.full((4,), INTERPOLATIONS.index(kind)) for kind in (down, up)]
    gap = np.abs(packed(down_up(planar(PICTURES), torch.tensor(sizes), *kinds)) - expected)
    # A level of difference in the small image can become two in the large one, which sharpens.
    assert gap.max() <= 2
    assert (gap > 1).mean() < 5e-3


PILLOW = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


@pytest.mark.parametrize("name", PILLOW)
def test_photometric_changes_equal_pillow(name: str):
    for factor in [*np.linspace(0.5, 1.5, 21), 0.0, 1.0, 3.0]:
        found = getattr(photometric, name)(planar(PICTURES), torch.full((4,), factor, dtype=torch.float64))
        for image, expected in zip(packed(found), PICTURES, strict=True):
            wanted = np.asarray(PILLOW[name](Image.fromarray(expected)).enhance(factor))
            assert np.abs(image - wanted).max() <= 1


@pytest.mark.parametrize("order", range(6))
def test_jitter_applies_all_three_in_the_order_drawn(order: int):
    factors = 0.5 + draws(4, 3)
    found = packed(photometric.jitter(planar(PICTURES), factors, torch.full((4,), order)))
    names = [list(PILLOW)[kind] for kind in photometric.ORDERS[order]]
    for image, source, row in zip(found, PICTURES, factors.tolist(), strict=True):
        wanted = Image.fromarray(source)
        for name in names:
            wanted = PILLOW[name](wanted).enhance(row[list(PILLOW).index(name)])
        assert np.abs(image - np.asarray(wanted)).max() <= 2


def test_the_six_orders_are_all_there_are():
    assert sorted(photometric.ORDERS) == sorted(
        {tuple(np.random.default_rng(i).permutation(3)) for i in range(60)}
    )


@pytest.mark.parametrize("turn", [-0.5, -0.05, 0.0, 0.03, 1 / 3, 0.9])
def test_hue_turns_as_colorsys_does(turn: float):
    few = PICTURES[:, :8, :8]
    few[0, 0, :3] = [[0, 0, 0], [255, 255, 255], [7, 7, 7]]
    found = packed(photometric.hue(planar(few), torch.full((4,), turn, dtype=torch.float64))).reshape(-1, 3)
    for pixel, source in zip(found, few.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(source / 255))
        wanted = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
        assert np.abs(pixel - wanted).max() <= 0.51


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_jpeg_is_pillows(quality: int):
    """The difference to a file that Pillow wrote is far below what the file lost."""
    found = packed(jpeg(planar(PICTURES), torch.full((4,), quality)))
    for kind, image, source in zip(("noise", "noise", "smooth", "smooth"), found, PICTURES, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(source).save(buffer, "JPEG", quality=quality)
        wanted = np.asarray(Image.open(buffer)).astype(int)
        gap, loss = np.abs(image - wanted).mean(), np.abs(wanted - source.astype(int)).mean()
        assert gap < (0.05 if kind == "noise" else 0.5) * loss
        assert loss == pytest.approx(np.abs(image - source.astype(int)).mean(), rel=0.1)


def reference_box(numbers: list[float], side: int) -> tuple[int, int, int, int]:
    """RandomResizedCrop's parameters as torchvision documents them, one image at a time."""
    for at in range(0, 40, 4):
        area = side * side * (0.2 + 0.8 * numbers[at])
        ratio = math.exp(math.log(3 / 4) + numbers[at + 1] * (math.log(4 / 3) - math.log(3 / 4)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= side and 0 < height <= side:
            top, left = (
                math.floor(numbers[at + 2 + k] * (side - n + 1)) for k, n in enumerate((height, width))
            )
            return top, left, height, width
    return 0, 0, side, side


def test_crop_boxes_are_random_resized_crops():
    numbers = draws(2000, 40)
    numbers[7, 0::4], numbers[7, 1::4] = 0.999, 0.99  # too wide, ten times: the whole image
    boxes = distort.crop_boxes(numbers, SIDE)
    assert boxes.tolist() == [list(reference_box(row, SIDE)) for row in numbers.tolist()]
    assert boxes[7].tolist() == [0, 0, SIDE, SIDE]
    top, left, height, width = boxes.unbind(1)
    assert int((top + height).max()) == int((left + width).max()) == SIDE
    assert int(top.min()) == int(left.min()) == 0
    share = (height * width / SIDE**2).double()
    assert float(share.min()) >= 0.198


def test_a_crop_stays_in_place_and_the_rest_is_black():
    numbers = draws(4, 40)
    found = distort.crop(planar(PICTURES), numbers)
    expected = torch.zeros_like(found)
    for image, source, (top, left, height, width) in zip(
        expected, planar(PICTURES), distort.crop_boxes(numbers, SIDE).tolist(), strict=True
    ):
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        image[part] = source[part]
    assert torch.equal(found, expected)


def test_low_resolution_takes_sizes_and_kinds_from_its_draws():
    numbers = torch.tensor(
        [[0.0, 0.0, 0.99], [0.5, 0.5, 0.3], [0.999999, 0.99, 0.0], [0.25, 0.7, 0.7]]
    ).double()
    sizes, downs, ups = (
        torch.tensor([22, 67, 111, 44]),
        torch.tensor([0, 2, 4, 3]),
        torch.tensor([4, 1, 0, 3]),
    )
    assert torch.equal(
        distort.low_res(planar(PICTURES), numbers), down_up(planar(PICTURES), sizes, downs, ups)
    )


def middle(value: float, limits: tuple[float, float]) -> float:
    """The draw that gives a value."""
    return (value - limits[0]) / (limits[1] - limits[0])


def test_a_warp_of_nothing_changes_nothing():
    still = [middle(1, distort.SCALE), 0.5, 0.5, 0.5, 0.99, 0.5]
    assert torch.equal(
        distort.warp(planar(PICTURES), torch.tensor([still] * 4).double(), aspect=0.5), planar(PICTURES)
    )


@pytest.mark.parametrize("stretched", [False, True])
def test_a_warp_equals_opencv_in_the_middle(stretched: bool):
    """Away from the edges, on smooth pictures; OpenCV rounds places to 1/32 pixel."""
    numbers = draws(4, 6, seed=3)
    numbers[:, 4] = 0.0 if stretched else 1.0
    found = packed(distort.warp(planar(PICTURES), numbers, aspect=0.5))
    centre = (SIDE - 1) / 2
    for image, source, (scale, turn, right, down, _, aspect) in zip(
        found[2:], PICTURES[2:], numbers[2:].tolist(), strict=True
    ):
        scale = distort.SCALE[0] + scale * (distort.SCALE[1] - distort.SCALE[0])
        angle = math.radians(-5 + 10 * turn)
        stretch = math.sqrt(0.9 + 0.2 * aspect) if stretched else 1
        linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = linear @ np.diag([stretch, 1 / stretch])
        # A shift is a part of the distance from the first pixel to the last.
        shift = (np.array([right, down]) * 0.06 - 0.03) * (SIDE - 1)
        matrix = np.column_stack([linear, centre + shift - linear @ [centre, centre]])
        wanted = cv2.warpAffine(source, matrix, (SIDE, SIDE)).astype(int)
        assert np.abs(image - wanted)[16:-16, 16:-16].max() <= 4
        assert np.abs(image - wanted)[16:-16, 16:-16].mean() < 0.6


def test_blur_is_a_gaussian():
    numbers = torch.tensor([[0.0], [0.3], [0.6], [1.0]]).double()
    found = packed(distort.blur(planar(PICTURES), numbers))
    for image, source, number in zip(found, PICTURES, numbers[:, 0].tolist(), strict=True):
        sigma = 0.5 + 1.5 * number
        wanted = cv2.GaussianBlur(source.astype(np.float64), (25, 25), sigma)
        assert np.abs(image - wanted)[12:-12, 12:-12].max() <= 0.51


def test_motion_blur_runs_along_its_line():
    """A bright point becomes a line of the length drawn, and keeps its sum; flat pictures stay."""
    point = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    point[:, 56, 56] = 255
    numbers = torch.tensor([[1.0, 0.0], [1.0, 0.5]]).double()  # 4.5 pixels left and right, or up and down
    across, down = packed(distort.motion_blur(planar(point), numbers))[..., 0]
    assert np.flatnonzero(across.sum(0)).tolist() == list(range(51, 62))
    assert np.flatnonzero(across.sum(1)).tolist() == [56]
    assert np.array_equal(down, across.T)
    assert across.sum() == pytest.approx(255, abs=6)
    flat = torch.full((2, 3, SIDE, SIDE), 77, dtype=torch.uint8)
    assert torch.equal(distort.motion_blur(flat, numbers), flat)


def test_noise_has_the_strength_drawn():
    grey = torch.full((3, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    numbers = torch.tensor([[0.0, 0.1], [1.0, 0.2], [1.0, 0.3]]).double()
    gap = distort.noise(grey, numbers).double() - 128
    assert gap.std((1, 2, 3)).tolist() == pytest.approx([2.02, 12.0, 12.0], rel=0.03)
    assert gap.mean((1, 2, 3)).abs().max() < 0.2
    assert abs(float((gap[1] * gap[2]).mean())) < 3, "each image has noise of its own"


def spy(monkeypatch: pytest.MonkeyPatch, config: AugmentConfig, num: int) -> dict[str, int]:
    """How many of `num` samples each augmentation is applied to."""
    counts: dict[str, int] = {}

    def counting(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        def count(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
            counts[name] = counts.get(name, 0) + len(images)
            return images

        return count

    operations = augment_module._operations(config)
    monkeypatch.setattr(
        augment_module, "_operations", lambda _: {name: counting(name) for name in operations}
    )
    pixels = torch.zeros(num, 16, 16, 3, dtype=torch.uint8)
    augment(pixels, torch.arange(num), config=config, channels="rgb", seed=0, epoch=0)
    return counts


@pytest.mark.parametrize("name", OWN)
def test_each_happens_as_often_as_it_should(monkeypatch: pytest.MonkeyPatch, name: str):
    config, num = AugmentConfig(set=name), 20_000
    wanted = {key: p for key, p in config.probabilities.items() if key != "aspect"}
    counts = spy(monkeypatch, config, num)
    assert list(counts) == [key for key in augment_module._operations(config)]
    assert sorted(counts) == sorted(wanted)
    for key, probability in wanted.items():
        assert counts[key] / num == pytest.approx(probability, abs=4 * math.sqrt(0.25 / num))


def test_adafaces_order():
    assert list(augment_module._operations(AugmentConfig(set="adaface"))) == [
        "crop",
        "low_res",
        "photometric",
        "flip",
    ]


def test_draws_are_uniform_and_independent():
    numbers = draw_numbers(torch.arange(4000), config=AugmentConfig(set="digiface"), seed=0, epoch=0)
    assert numbers.mean(0).sub(0.5).abs().max() < 0.025
    assert numbers.var(0).sub(1 / 12).abs().max() < 0.006
    off_diagonal = torch.corrcoef(numbers.T).fill_diagonal_(0)
    assert off_diagonal.abs().max() < 0.09


def test_a_draw_belongs_to_its_sample_epoch_and_seed_alone():
    config = AugmentConfig()
    everyone = draw_numbers(torch.arange(100), config=config, seed=3, epoch=2)
    assert torch.equal(draw_numbers(torch.tensor([41, 7]), config=config, seed=3, epoch=2), everyone[[41, 7]])
    others = [(4, 2), (3, 3)]
    assert all(
        not torch.isclose(draw_numbers(torch.arange(100), config=config, seed=s, epoch=e), everyone).any()
        for s, e in others
    )


def test_what_is_not_drawn_stays_untouched():
    config = AugmentConfig(set="digiface", **dict.fromkeys(OWN["digiface"], 0.0))
    pixels = torch.from_numpy(PICTURES)
    found = augment(pixels, torch.arange(4), config=config, channels="rgb", seed=0, epoch=0)
    assert torch.equal(found.add(1).mul(127.5).round().to(torch.uint8), planar(PICTURES))


def test_a_flip_is_a_mirror_image():
    config = AugmentConfig(set="flip", flip=1.0)
    found = augment(
        torch.from_numpy(PICTURES), torch.arange(4), config=config, channels="bgr", seed=0, epoch=0
    )
    assert np.array_equal(packed(found.add(1).mul(127.5).round()), PICTURES[:, :, ::-1, ::-1])


def test_adaface_changes_colours_in_the_networks_order():
    """On BGR data the first channel, blue, counts as red; DigiFace's changes are made on RGB."""
    pixels = torch.from_numpy(PICTURES)
    chances = {"crop": 0.0, "low_res": 0.0, "flip": 0.0, "photometric": 1.0}
    settings = {"samples": torch.arange(4), "seed": 0, "epoch": 0}
    adaface = AugmentConfig(set="adaface", **chances)
    bgr = augment(pixels, config=adaface, channels="bgr", **settings)
    assert torch.equal(bgr, augment(pixels.flip(3), config=adaface, channels="rgb", **settings))
    assert not torch.equal(bgr, augment(pixels, config=adaface, channels="rgb", **settings).flip(1))
    digiface = AugmentConfig(set="digiface", gray=1.0)
    rgb = augment(pixels, config=digiface, channels="rgb", **settings)
    assert torch.equal(augment(pixels, config=digiface, channels="bgr", **settings), rgb.flip(1))


def test_probabilities_can_be_given():
    assert AugmentConfig().probabilities == {"crop": 0.2, "low_res": 0.2, "photometric": 0.2, "flip": 0.5}
    assert AugmentConfig(crop=0.0, flip=1).probabilities == {
        "crop": 0,
        "low_res": 0.2,
        "photometric": 0.2,
        "flip": 1,
    }
    assert AugmentConfig(set="none").probabilities == {}
    assert AugmentConfig(set="flip", crop=None).probabilities == {"flip": 0.5}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"set": "adaface", "jpeg": 0.1},
            "jpeg is no augmentation of the set 'adaface', which has crop, low_res",
        ),
        ({"set": "none", "flip": 0.5}, "flip is no augmentation of the set 'none', which has none"),
        ({"flip": 1.5}, r"flip = 1.5: input should be less than or equal to 1"),
        ({"set": "autoaugment"}, "set = 'autoaugment'"),
        ({"crops": 0.1}, "unknown setting 'crops': did you mean 'crop'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, text: str):
    with pytest.raises(UserError, match=text):
        AugmentConfig(**settings)
