"""Parts of `translate`: resizing, batches, work ahead, shared time, and the engines of a method."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from d2r_fast.engine.ahead import ahead
from d2r_fast.engine.build_engines import GENERATE_BATCH, TRANSLATE_BATCH, build_engines
from d2r_fast.engine.cli import parse
from d2r_fast.engine.clock import Clock
from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.source import Image
from d2r_fast.engine.write_behind import write_behind
from d2r_fast.translation.batches import Decoded, batches
from d2r_fast.translation.config import MethodName, TranslateConfig, TranslateRecipe
from d2r_fast.translation.engines import open_for_building
from d2r_fast.translation.methods import METHODS, open_method
from d2r_fast.translation.opened import Opened, open_networks
from d2r_fast.translation.resize import crop, pad_to_multiple, resize
from d2r_fast.translation.shard import Task
from d2r_fast.translation.translate import settle

from .fakemethod import use_fake_method, write_weights


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_fake_method(monkeypatch)
    return write_weights(tmp_path / "w.safetensors")


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand((2, 3, height, width), generator=torch.Generator().manual_seed(height * width)) * 2 - 1


def test_enlarging_is_opencv_linear() -> None:
    image = picture(28, 20)
    found = resize(image, (128, 64), how="bilinear")
    for row in range(2):
        wanted = cv2.resize(image[row].permute(1, 2, 0).numpy(), (64, 128), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found[row].permute(1, 2, 0).numpy(), wanted, atol=2e-6)


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "area"])
def test_shrinking_does_not_alias(how: Any) -> None:
    """A checkerboard of single pixels is grey from afar; a plain sample of it would be black or white."""
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    image = (board * 2.0 - 1).expand(1, 3, 64, 64)
    assert resize(image, (16, 16), how=how).abs().max() < 0.05
    flat = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(resize(flat, (17, 23), how=how), torch.full((1, 3, 17, 23), 0.3))


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "area"])
def test_a_row_depends_on_its_image_alone_and_the_same_size_is_left(how: Any) -> None:
    images = picture(30, 44)
    for size in ((112, 112), (12, 90)):
        together = resize(images, size, how=how)
        assert torch.equal(together[1:], resize(images[1:], size, how=how))
    assert resize(images, (30, 44), how=how) is images


@pytest.mark.parametrize(
    ("height", "width", "multiple"), [(112, 112, 4), (97, 113, 32), (1, 33, 16), (5, 3, 64)]
)
def test_padding_reflects_and_is_cropped_off(height: int, width: int, multiple: int) -> None:
    image = picture(height, width)
    padded = pad_to_multiple(image, multiple)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert padded.shape[2] - height < multiple
    assert torch.equal(crop(padded, (height, width)), image)
    wanted = np.pad(
        image.numpy(), [(0, 0), (0, 0), (0, padded.shape[2] - height), (0, padded.shape[3] - width)], mode="reflect"
    )  # fmt: skip
    np.testing.assert_array_equal(padded.numpy(), wanted)


def decoded(shard: int, number: int, side: int) -> Decoded:
    task = Task(shard, f"{shard}_{number}", shard, 0, number, Image("ann", f"{number}.png", Path("none")))
    return Decoded(task, np.zeros((side, side, 3), np.uint8))


def test_batches_hold_one_size_and_wait_for_two_shards_at_most() -> None:
    images = [decoded(shard, number, 112) for shard in range(5) for number in range(3)]
    images.insert(1, decoded(0, 9, 64))
    found = [[(image.task.shard, image.size[0]) for image in batch] for batch in batches(images, 4)]
    assert sorted(place for batch in found for place in batch) == sorted(
        (i.task.shard, i.size[0]) for i in images
    )
    assert all(len({side for _, side in batch}) == 1 for batch in found)
    assert found == [
        [(0, 112), (0, 112), (0, 112), (1, 112)], [(0, 64)], [(1, 112), (1, 112), (2, 112), (2, 112)],
        [(2, 112), (3, 112), (3, 112), (3, 112)], [(4, 112), (4, 112), (4, 112)],
    ]  # fmt: skip


def test_work_ahead_keeps_order_and_stays_within_its_depth() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    def slow_first(item: int) -> int:
        time.sleep(0.2 if item == 0 else 0)
        return item * item

    with ThreadPoolExecutor(4) as pool:
        results = ahead(pool, slow_first, items(), depth=3)
        assert taken == []
        assert next(results) == 0
        assert taken == [0, 1, 2, 3]
        assert [0, *results] == [item * item for item in range(20)]
        with pytest.raises(ZeroDivisionError):
            list(ahead(pool, lambda item: 1 // item, [1, 0, 1], depth=1))


@pytest.mark.parametrize("stop", [RunError, KeyboardInterrupt])
def test_finished_shards_are_written_where_the_next_one_fails(stop: type[BaseException]) -> None:
    """A signal is not waited for longer than the write that goes on takes."""
    begun, written = Event(), []

    def shards() -> Iterator[int]:
        yield from range(3)
        begun.wait()
        raise stop("the fourth")

    def write(shard: int) -> dict[str, Any]:
        begun.set()
        time.sleep(0.2)
        written.append(shard)
        return {"shard": shard}

    with pytest.raises(stop, match="the fourth"):
        list(write_behind(shards(), write))
    assert written == ([0, 1, 2] if stop is RunError else [0, 1])


def test_time_of_threads_together_is_counted_once() -> None:
    clock, meet = Clock(), Barrier(2)

    def work(_: int) -> None:
        with clock.together("stage"):
            meet.wait()
            time.sleep(0.1)
            meet.wait()

    started_s = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    passed_s = time.perf_counter() - started_s
    assert 0.1 <= clock.lap()["stage"] <= passed_s + 0.001
    assert clock.lap() == {}
    with clock.together("stage"):
        time.sleep(0.05)
        assert clock.lap()["stage"] >= 0.05, "what goes on is counted up to now"
    assert clock.lap()["stage"] < 0.05


def test_networks_are_opened_once_for_each_size(weights: Path) -> None:
    method = open_method(TranslateRecipe(method="vsait"), weights)
    asked: dict[str, Any] = {
        "backend": "torch", "precision": "fp32", "engines": None, "device": "cpu", "batch_size": 4,
    }  # fmt: skip
    opened = Opened(method, **asked)
    first = opened((64, 64))
    assert opened((63, 61)) is first, "padded to the same"
    assert opened((64, 112)) is not first
    images = torch.rand(5, 3, 64, 64)
    given = open_networks(method, (64, 64), **asked)["shift"]({"images": images})["shifted"]
    assert torch.equal(first["shift"]({"images": images})["shifted"], given)


def test_checkpoints_of_one_method_have_engines_of_their_own(weights: Path, tmp_path: Path) -> None:
    other = write_weights(tmp_path / "other.safetensors", seed=1)
    asked: dict[str, Any] = {"method": "vsait", "height": None, "width": None, "w": None}
    folders = {
        (path, size): open_for_building(tmp_path, weights=path, size=size, **asked)[0]
        for path in (weights, other) for size in (64, 112)
    }  # fmt: skip
    assert len(set(folders.values())) == 2
    assert folders[weights, 64] == folders[weights, 112] != folders[other, 64]


def test_build_engines_takes_the_batch_sizes_of_the_commands_it_builds_for() -> None:
    """Another batch is another engine, which would be built a second time."""
    assert GenerateConfig.model_fields["batch_size"].default == GENERATE_BATCH
    assert TranslateConfig.model_fields["batch_size"].default == TRANSLATE_BATCH


def test_build_engines_builds_what_translate_opens(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {
        "backend": "openvino",
        "precision": "fp32",
        "method": "vsait",
        "weights": weights,
    }
    for verb in ("built in", "up to date"):
        assert build_engines(None, tmp_path / "engines", **asked, size=64) == 0
        assert f"shift: {verb}" in capsys.readouterr().out
    method = open_method(TranslateRecipe(method="vsait", size=64), weights)
    open_networks(
        method, (112, 112), backend="openvino", precision="fp32", engines=tmp_path / "engines", device="cpu",
        batch_size=16,
    )  # fmt: skip
    assert "building" not in capsys.readouterr().err


def test_build_engines_takes_any_size_of_image_for_a_method(weights: Path, tmp_path: Path) -> None:
    given = {"weights": weights, "out": tmp_path / "engines", "height": 61, "width": 110}
    flags = [f"--{name}={value}" for name, value in given.items()]
    command = parse(
        [
            "build-engines",
            "--method=vsait",
            "--backend=onnxruntime",
            "--precision=fp32",
            "--device=cpu",
            *flags,
        ]
    )
    assert command.run() == 0
    (built,) = (tmp_path / "engines").glob("*/onnxruntime/*.json")
    assert built.name == "shift-fp32-b1-64x112.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give --models, or --method and --weights"),
        ({"method": "vsait"}, "method vsait without weights: give --weights"),
        ({"method": "vsait", "weights": "w"}, "sees images in their own size: give --size"),
        ({"method": "vsait", "weights": "w", "models": "m"}, "--models with --method vsait"),
        ({"method": "vsait", "weights": "w", "lora": True}, "--lora with --method vsait"),
        ({"method": "vsait", "weights": "w", "networks": "unet"}, "--networks with --method vsait"),
        ({"method": "vsait", "weights": "w", "size": 64, "w": 0.5}, "w belongs to codeformer, not to vsait"),
        ({"method": "vsait", "weights": "w", "height": 64}, "height and width go together"),
        ({"method": "vsait", "weights": "w", "size": 1024}, "cannot take 1024x1024: .*at most 512"),
        ({"method": "vsait", "weights": "none", "size": 64}, "is missing"),
        ({"models": "m", "weights": "w"}, "--weights without --method"),
        ({"models": "m", "w": 0.5}, "--w without --method"),
    ],
)
def test_what_build_engines_cannot_do_is_one_line(
    weights: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    given = dict(changes)
    for name in ("weights", "models"):
        if name in given:
            given[name] = weights if given[name] == "w" else tmp_path / given[name]
    with pytest.raises(UserError, match=message) as caught:
        build_engines(
            given.pop("models", None), tmp_path / "out", backend="openvino", precision="fp32", **given
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", METHODS)
def test_auto_is_openvino_on_a_cpu(method: MethodName) -> None:
    places = {name: Path("x") for name in ("source", "weights", "out")}
    settled = settle(TranslateConfig(method=method, **places), "cpu")
    assert (settled.backend, settled.precision) == ("openvino", "fp32")
