"""The loader: what batches hold, whatever the threads; damage; resuming."""

import re
import threading
import time

import numpy as np
import pytest
import torch

from d2r_fast.engine.errors import RunError
from d2r_fast.engine.write import encode
from d2r_fast.recognition.training.augment_config import AugmentConfig
from d2r_fast.recognition.training.loader import AHEAD, Loader
from d2r_fast.recognition.training.sampler import epoch_order

from .fakedata import make_image
from .fakesets import Fake, fake

NUM = 40


def make_set(*, damaged: dict[int, bytes] | None = None) -> Fake:
    """PNG files, so that pixels come back exactly; two images of each identity."""
    files = [encode(make_image(0, index // 2, index % 2), "png", 95) for index in range(NUM)]
    for index, data in (damaged or {}).items():
        files[index] = data
    return fake(*(index // 2 for index in range(NUM)), files=files)


def make_loader(images: Fake, *, augment: str = "none", channels: str = "rgb", **changes) -> Loader:
    wanted = {"device": "cpu", "num_threads": 2, "max_unreadable": 0} | changes
    return Loader(images, channels=channels, augment=AugmentConfig(set=augment), **wanted)


def order(*batches: list[int]) -> np.ndarray:
    return np.array(batches, np.int64)


def plain(images: Fake, *, batch_size: int = 8, num_ranks: int = 1, rank: int = 0) -> np.ndarray:
    return epoch_order(
        images, sampling="plain", seed=0, epoch=0, num_ranks=num_ranks, rank=rank, batch_size=batch_size
    )


def take(loader: Loader, rows: np.ndarray, **changes) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(loader.epoch(rows, **{"seed": 0, "epoch": 0} | changes))


def same(first: list, second: list) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, y) for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_batches_hold_pixels_and_labels(channels: str):
    images = make_set()
    batches = take(make_loader(images, channels=channels), order([3, 0, 7], [5, 5, 38]))
    assert [labels.tolist() for _, labels in batches] == [[1, 0, 3], [2, 2, 19]]
    inputs = torch.cat([inputs for inputs, _ in batches])
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous()
    for found, index in zip(inputs, [3, 0, 7, 5, 5, 38], strict=True):
        pixels = make_image(0, index // 2, index % 2)[..., :: 1 if channels == "rgb" else -1]
        expected = (pixels.astype(np.float64) / 255 - 0.5) / 0.5
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_the_ends_of_the_range_are_exact():
    white, black = (encode(np.full((112, 112, 3), value, np.uint8), "png", 95) for value in (255, 0))
    [(inputs, _)] = take(make_loader(fake(0, 1, files=[white, black])), order([0, 1]))
    assert inputs[0].unique().tolist() == [1.0]
    assert inputs[1].unique().tolist() == [-1.0]


@pytest.mark.parametrize("augment", ["none", "adaface", "digiface"])
def test_threads_do_not_matter(augment: str):
    images = make_set()
    rows = plain(images)
    expected = take(make_loader(images, augment=augment, num_threads=1), rows)
    assert same(take(make_loader(images, augment=augment, num_threads=4), rows), expected)


@pytest.mark.parametrize("augment", ["adaface", "digiface"])
def test_batch_size_and_ranks_do_not_matter(augment: str):
    """Every image comes out the same to the bit, alone or in company."""
    images = make_set()
    whole = torch.cat(
        [x for x, _ in take(make_loader(images, augment=augment), plain(images, batch_size=40))]
    )
    small = torch.cat([x for x, _ in take(make_loader(images, augment=augment), plain(images, batch_size=5))])
    assert torch.equal(small, whole)
    ranks = [
        torch.cat(
            [
                x
                for x, _ in take(
                    make_loader(images, augment=augment), plain(images, batch_size=20, num_ranks=2, rank=r)
                )
            ]
        )
        for r in (0, 1)
    ]
    assert torch.equal(torch.cat(ranks), whole)


def test_epochs_and_seeds_differ():
    images = make_set()
    rows = order(list(range(NUM)))
    loader = make_loader(images, augment="flip")
    first, again = (take(loader, rows) for _ in range(2))
    assert same(first, again)
    assert not same(first, take(loader, rows, epoch=1))
    assert not same(first, take(loader, rows, seed=1))


def test_resuming_gives_what_was_left():
    images = make_set()
    rows = plain(images)
    loader = make_loader(images, augment="adaface")
    whole = take(loader, rows)
    assert same(take(loader, rows, start_batch=3), whole[3:])
    assert take(loader, rows, start_batch=5) == []
    batches = loader.epoch(rows, seed=0, epoch=0)
    next(batches), next(batches)
    assert same(list(batches), whole[2:])


def test_work_goes_on_ahead_but_not_without_end():
    images = make_set()
    met: list[int] = []
    read = images.read
    images.read = lambda index: (met.append(index), read(index))[1]  # type: ignore[method-assign]
    rows = order(*[[index, index] for index in range(NUM)])
    batches = make_loader(images).epoch(rows, seed=0, epoch=0)
    assert met == [], "nothing is read before it is asked for"
    next(batches)
    deadline_s = time.monotonic() + 10
    while len(met) < 2 * (AHEAD + 1) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert len(met) == 2 * (AHEAD + 1)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


GARBAGE = b"\x89PNG garbage"


def test_damaged_images_are_left_out_counted_and_named():
    images = make_set(damaged={4: GARBAGE, 9: b""})
    loader = make_loader(images, max_unreadable=2)
    batches = take(loader, order([3, 4, 5, 6], [9, 8, 7, 4], [1, 2, 3, 5]))
    assert [labels.tolist() for _, labels in batches] == [[1, 2, 3], [4, 3], [0, 1, 1, 2]]
    assert loader.unreadable == ["4: truncated or damaged", "9: empty file"]
    clean = take(make_loader(make_set()), order([3, 5, 6]))
    assert torch.equal(batches[0][0], clean[0][0])
    # Met again in the next epoch, they count once.
    take(loader, order([3, 4, 5], [9, 8, 7]), epoch=1)
    assert len(loader.unreadable) == 2


def test_a_batch_with_one_readable_image_stops_the_run():
    loader = make_loader(make_set(damaged={4: GARBAGE}), max_unreadable=1)
    with pytest.raises(RunError, match=r"has 1 readable images: .*4: truncated or damaged"):
        take(loader, order([4, 5], [6, 7]))


def test_augmentation_of_the_others_does_not_change():
    rows = order(list(range(20)))
    [(whole, _)] = take(make_loader(make_set(), augment="adaface"), rows)
    loader = make_loader(make_set(damaged={4: GARBAGE}), augment="adaface", max_unreadable=1)
    [(found, _)] = take(loader, rows)
    assert torch.equal(found, torch.cat([whole[:4], whole[5:]]))


def test_too_many_damaged_images_end_the_run():
    damaged = dict.fromkeys(range(0, 20, 2), GARBAGE)
    loader = make_loader(make_set(damaged=damaged), max_unreadable=3)
    message = (
        "4 images of fake cannot be used, and the limit is 3: 0: truncated or damaged; 2: truncated or damaged; "
        "4: truncated or damaged; 6: truncated or damaged: repair or remove them, or raise the limit"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        take(loader, order([0, 1, 2, 3], [5, 4, 7, 9], [6, 11, 13, 15]))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_an_image_that_cannot_be_read_is_as_bad_as_a_damaged_one():
    images = make_set()
    read = images.read

    def fail(index: int) -> bytes:
        if index == 2:
            raise OSError(5, "Input/output error")
        return read(index)

    images.read = fail  # type: ignore[method-assign]
    loader = make_loader(images, max_unreadable=1)
    [(_, labels)] = take(loader, order([1, 2, 3]))
    assert labels.tolist() == [0, 1]
    assert loader.unreadable == ["2: Input/output error"]


def test_a_bug_in_a_thread_is_not_hidden():
    images = make_set()

    def broken(index: int) -> bytes:
        raise ZeroDivisionError

    images.read = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        take(make_loader(images, max_unreadable=10), order([1, 2, 3]))


def test_other_sizes_are_scaled_said_once_and_counted(capsys: pytest.CaptureFixture[str]):
    large = encode(np.full((224, 224, 3), 80, np.uint8), "png", 95)
    loader = make_loader(make_set(damaged={4: large, 5: large}))
    [(inputs, _)] = take(loader, order([4, 5, 6]))
    assert inputs.shape == (3, 3, 112, 112)
    assert inputs[0].unique().tolist() == [pytest.approx((80 - 127.5) / 127.5)]
    assert loader.num_resized == 2
    assert capsys.readouterr().err == "fake: 4 is not 112x112; it and others like it are scaled\n"


def test_images_that_are_not_square_were_not_aligned():
    wide = encode(np.zeros((112, 120, 3), np.uint8), "png", 95)
    loader = make_loader(make_set(damaged={4: wide}), max_unreadable=1)
    take(loader, order([4, 5, 6]))
    assert loader.unreadable == ["4: not square but 120x112: align and crop it first"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("augment", ["adaface", "digiface"])
def test_a_gpu_gives_nearly_the_same(augment: str):
    images = make_set()
    rows = plain(images)
    here = take(make_loader(images, augment=augment), rows)
    there = take(make_loader(images, augment=augment, device="cuda"), rows)
    for (expected, labels), (found, found_labels) in zip(here, there, strict=True):
        assert torch.equal(found_labels.cpu(), labels)
        levels = (found.cpu() - expected).abs() * 127.5
        assert (levels > 1.01).float().mean() < 1e-3
