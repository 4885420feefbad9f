"""Images that do not pair: which ones a step takes, and what becomes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.translation.training.config import TransferRecipe
from d2r_fast.translation.training.unpaired import Folder, Order, UnpairedLoader, cuts

from .faketransfer import draw, draw_pair

VGG = Path("vgg19.pth")


def recipe(**settings: Any) -> TransferRecipe:
    return TransferRecipe(**{"method": "decent", "size": 32, "batch_size": 2, "seed": 3} | settings)


def loader(
    root: Path, wanted: TransferRecipe, *, num_steps: int = 8, sources: int = 1, num_threads: int = 2,
    max_unreadable: int = 1,
) -> UnpairedLoader:  # fmt: skip
    return UnpairedLoader(
        Folder("source", root / "renders"), Folder("target", root / "photos"), wanted, num_steps=num_steps,
        sources=sources, device=torch.device("cpu"), num_threads=num_threads, max_unreadable=max_unreadable,
    )  # fmt: skip


def test_an_epoch_takes_every_image_of_the_larger_folder_once() -> None:
    order = Order(recipe(), num_source=10, num_target=4, sources=1)
    assert order.steps_per_epoch == 5
    first, second = (
        np.concatenate([order.source(5 * epoch + step) for step in range(5)]) for epoch in range(2)
    )
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_the_smaller_source_begins_again_within_an_epoch() -> None:
    order = Order(recipe(), num_source=4, num_target=12, sources=1)
    taken = np.concatenate([order.source(step) for step in range(order.steps_per_epoch)])
    assert sorted(taken) == sorted(list(range(4)) * 3)


def test_two_source_batches_have_orders_of_their_own() -> None:
    order = Order(recipe(method="unsb"), num_source=40, num_target=4, sources=2)
    halves = [np.split(order.source(step), 2) for step in range(20)]
    one, other = (np.concatenate([half[side] for half in halves]) for side in (0, 1))
    assert sorted(one) == sorted(other) == list(range(40))
    assert list(one) != list(other)


def test_targets_are_drawn_from_all_and_vsait_s_taken_in_turn() -> None:
    drawn = Order(recipe(), num_source=400, num_target=8, sources=1)
    counts = np.bincount(np.concatenate([drawn.target(step) for step in range(200)]), minlength=8)
    assert counts.sum() == 400
    assert counts.min() > 20
    assert counts.max() < 90  # mean 50, deviation 6.6
    assert len(set(counts)) > 1
    turns = Order(recipe(method="vsait", vgg=VGG), num_source=4, num_target=8, sources=1)
    assert sorted(np.concatenate([turns.target(step) for step in range(4)])) == list(range(8))


def test_crops_are_those_of_pillow(tmp_path: Path) -> None:
    """Bicubic to a square, a crop, a mirror, and to [-1, 1]: written out here once more."""
    draw_pair(tmp_path, size=50)
    wanted = recipe()
    taken = loader(tmp_path, wanted)
    source, target = next(taken.batches(start=0))
    numbers = [("source", n) for n in taken.order.source(0)] + [("target", n) for n in taken.order.target(0)]
    assert wanted.scaled_size == 36
    for got, (side, number), cut in zip(
        torch.cat((source, target)), numbers, cuts(wanted, 0, num=4, scaled=36), strict=True
    ):
        image = Image.open(taken.folders[side].file(int(number)).path)
        crop = image.resize((36, 36), Image.Resampling.BICUBIC).crop(
            (cut.left, cut.top, cut.left + 32, cut.top + 32)
        )
        pixels = np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if cut.mirrored else crop)
        expected = (torch.tensor(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.5
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_crops_are_everywhere_and_half_are_mirrored() -> None:
    drawn = [cut for step in range(250) for cut in cuts(recipe(), step, num=4, scaled=36)]
    assert {cut.left for cut in drawn} == {cut.top for cut in drawn} == set(range(5))
    assert 0.42 < np.mean([cut.mirrored for cut in drawn]) < 0.58
    assert not any(cut.mirrored for cut in cuts(recipe(flip=False), 0, num=100, scaled=36))


def test_whole_images_are_taken_while_the_learning_rate_falls(tmp_path: Path) -> None:
    draw_pair(tmp_path)
    sizes = [loader(tmp_path, recipe(), num_steps=8).scaled_size(step) for step in range(8)]
    assert sizes == [36] * 4 + [32] * 4
    vsait = loader(tmp_path, recipe(method="vsait", vgg=VGG, load_size=40), num_steps=8)
    assert {vsait.scaled_size(step) for step in range(8)} == {40}


def test_a_step_is_the_same_wherever_a_run_begins_and_whatever_the_threads(tmp_path: Path) -> None:
    draw_pair(tmp_path)
    whole = list(loader(tmp_path, recipe(), num_threads=1).batches(start=0))
    late = list(loader(tmp_path, recipe(), num_threads=3).batches(start=5))
    assert len(whole) == 8
    assert len(late) == 3
    for one, other in zip(whole[5:], late, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_another_seed_is_another_order(tmp_path: Path) -> None:
    draw_pair(tmp_path)
    one, other = (next(loader(tmp_path, recipe(seed=seed)).batches(start=0))[0] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_identity_folders_and_loose_images_are_the_same_images(tmp_path: Path) -> None:
    for number in range(6):
        draw(tmp_path / "a" / "renders" / f"{number // 2}" / f"{number % 2}.png", number)
        draw(tmp_path / "b" / "renders" / f"{number}.png", number)
        for root in "ab":
            draw(tmp_path / root / "photos" / f"{number}.png", number, warm=True)
    one, other = (next(loader(tmp_path / root, recipe()).batches(start=0)) for root in "ab")
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    draw_pair(tmp_path, size=20)
    source, target = next(loader(tmp_path, recipe()).batches(start=0))
    assert source.shape == target.shape == (2, 3, 32, 32)
    assert float(source.std()) > 0.05


def test_the_next_image_stands_in_for_an_unreadable_one(tmp_path: Path) -> None:
    renders, _ = draw_pair(tmp_path)
    (renders / "1" / "0.png").write_bytes(b"\x89PNG but not much more")
    taken = loader(tmp_path, recipe())
    whole = list(taken.batches(start=0))
    assert list(taken.faults) == [str(renders / "1" / "0.png")]
    (renders / "1" / "0.png").write_bytes((renders / "1" / "1.png").read_bytes())
    repaired = list(loader(tmp_path, recipe()).batches(start=0))
    for one, other in zip(whole, repaired, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_too_many_unreadable_images_end_the_run(tmp_path: Path) -> None:
    renders, _ = draw_pair(tmp_path)
    for name in ("0/0.png", "1/0.png"):
        (renders / name).write_bytes(b"")
    with pytest.raises(RunError, match=r"2 images cannot be used, and the limit is 1: .*empty file"):
        list(loader(tmp_path, recipe()).batches(start=0))


def test_a_folder_of_nothing_readable_ends_the_run(tmp_path: Path) -> None:
    _, photos = draw_pair(tmp_path)
    for path in photos.iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(RunError, match=r"target .*photos has no image that can be used: .*not a PNG"):
        list(loader(tmp_path, recipe(), max_unreadable=100).batches(start=0))


def test_a_folder_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    _, photos = draw_pair(tmp_path)
    with pytest.raises(UserError, match=r"target .*photos has 5 images, and a step takes 6"):
        Folder("target", photos).check(batch_size=6, out=tmp_path / "run")


def test_a_run_among_its_images_is_refused(tmp_path: Path) -> None:
    renders, _ = draw_pair(tmp_path)
    with pytest.raises(UserError, match=r"out .*renders/run lies in the source .*: give a folder elsewhere"):
        Folder("source", renders).check(batch_size=1, out=renders / "run")


@pytest.mark.parametrize(
    ("name", "words"), [("none", "does not exist"), ("file", "is a file"), ("empty", "holds no images")]
)
def test_no_folder_of_images_is_called_by_its_option(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"^target .*{name} {words}: give a folder of images"):
        Folder("target", tmp_path / name)


def test_examples_are_whole_images_spread_over_the_folder(tmp_path: Path) -> None:
    draw_pair(tmp_path, size=32)
    source, target = loader(tmp_path, recipe()).examples(3)
    paths = [tmp_path / "renders" / f"{number}" / "0.png" for number in range(3)]
    expected = [torch.tensor(np.asarray(Image.open(path))).permute(2, 0, 1) / 127.5 - 1 for path in paths]
    torch.testing.assert_close(source, torch.stack(expected), rtol=0, atol=1e-6)
    assert target.shape == (3, 3, 32, 32)
