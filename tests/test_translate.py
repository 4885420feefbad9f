"""`translate` from end to end with a method of a few numbers: one image in, one image out, whatever happens."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2r_fast.engine import card
from d2r_fast.engine.decode import decode
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.marker import document_digest, dump
from d2r_fast.engine.report import write_report
from d2r_fast.engine.verify import verify
from d2r_fast.recognition.training.training_set import open_training_set
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.flow import NOT_FINITE

from .fakedata import tree
from .fakemethod import FakeMethod, use_fake_method
from .fakereport import Page
from .translating import damage, expected, images, mixed_sizes, rows, run, sources, write_image


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_method(monkeypatch)


def test_every_image_comes_out_once_under_its_name(shifted: Path, renders: Path) -> None:
    found = {str(path.relative_to(shifted)) for path in shifted.glob("*/*.png")}
    assert found == {str(path.relative_to(renders)) for path in renders.glob("*/*.png")}
    assert len(found) == 24
    assert verify(shifted).problems == []
    assert {row.status for row in rows(shifted)} == {"written"}
    document = json.loads((shifted / "dataset.json").read_text())
    assert document["kind"] == "translated"
    assert "images_per_identity" not in document["plan"]
    assert document["plan"]["wanted"] == 24


def test_pixels_are_those_of_a_plain_loop(shifted: Path, renders: Path, shift: Path) -> None:
    """An image's bytes depend on its pixels, its name and the seed, and so does its noise."""
    method = FakeMethod.open(shift, TranslateRecipe(method="vsait"))
    found, given = images(shifted), sources(renders)
    assert found.keys() == given.keys()
    for row in rows(shifted)[::5]:
        image = given[row.identity, row.stem]
        wanted = expected(method, image, identity=row.identity, number=row.image)
        np.testing.assert_array_equal(found[row.identity, row.stem], wanted)
        other = expected(method, image, identity=row.identity, number=row.image + 1)
        assert not np.array_equal(other, wanted), "noise is keyed by image"


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1}, {"batch_size": 5, "num_threads": 1}, {"batch_size": 64, "num_threads": 7}]
)
def test_neither_batch_nor_threads_change_a_byte(
    shifted: Path, renders: Path, shift: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    assert run(renders, shift, tmp_path / "out", **changes) == 0
    assert tree(tmp_path / "out") == tree(shifted)


def test_another_seed_or_size_is_another_dataset(
    renders: Path, shift: Path, tmp_path: Path, shifted: Path
) -> None:
    for name, changes in (("seed", {"seed": 1}), ("size", {"size": 64})):
        assert run(renders, shift, tmp_path / name, identities=1, **changes) == 0
        found, plain = images(tmp_path / name), images(shifted)
        assert all(not np.array_equal(image, plain[key]) for key, image in found.items())
        assert all(image.shape == plain[key].shape for key, image in found.items())


@pytest.mark.parametrize("format", ["imagefolder", "webdataset"])
@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_formats_hold_the_same_images(
    shifted: Path, renders: Path, shift: Path, tmp_path: Path, format: str, image_format: str
) -> None:
    out = tmp_path / "out"
    assert run(renders, shift, out, format=format, image_format=image_format) == 0
    assert verify(out).problems == []
    found, plain = images(out), images(shifted)
    assert found.keys() == plain.keys()
    for key, image in found.items():
        error = np.abs(image.astype(int) - plain[key].astype(int)).mean()
        assert error == 0 if image_format == "png" else 0 < error < 3


def test_sizes_may_be_mixed_and_are_kept(shift: Path, tmp_path: Path) -> None:
    """Sides that the network cannot take are padded and cropped back; batches hold one size each."""
    source = mixed_sizes(tmp_path / "source")
    for name, changes in (("a", {}), ("b", {"batch_size": 2, "num_threads": 3})):
        assert run(source, shift, tmp_path / name, identities_per_shard=1, **changes) == 0
    assert verify(tmp_path / "a").problems == []
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    found, given = images(tmp_path / "a"), sources(source)
    assert {key: image.shape for key, image in found.items()} == {
        key: image.shape for key, image in given.items()
    }
    method = FakeMethod.open(shift, TranslateRecipe(method="vsait"))
    for row in rows(tmp_path / "a")[:7]:
        wanted = expected(method, given[row.identity, row.stem], identity=row.identity, number=row.image)
        np.testing.assert_array_equal(found[row.identity, row.stem], wanted)


def test_damaged_images_fail_and_say_why(renders: Path, shift: Path, tmp_path: Path, shifted: Path) -> None:
    source = damage(tmp_path / "source", renders)
    assert run(source, shift, tmp_path / "out") == 3
    assert run(source, shift, tmp_path / "out", max_error_rate=0.5) == 0
    assert verify(tmp_path / "out").problems == []
    failed = {row.stem: row.reason for row in rows(tmp_path / "out") if row.status == "failed"}
    assert failed == {
        "0": "empty file", "1": "truncated or damaged", "2": "not a PNG, JPEG, WebP, BMP or TIFF image",
        "3": "No such file or directory",
    }  # fmt: skip
    problems = [
        json.loads(line)
        for path in sorted((tmp_path / "out").glob("*_errors.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert [(entry["stage"], entry["key"]) for entry in problems] == [
        *(("decode", f"{number}.png") for number in range(4)), ("plan", "zz nobody"),
    ]  # fmt: skip
    found, plain = images(tmp_path / "out"), images(shifted)
    assert len(found) == 20
    assert all(np.array_equal(image, plain[key]) for key, image in found.items())


def test_an_image_that_does_not_fit_the_method_fails(shift: Path, tmp_path: Path) -> None:
    for place, width in enumerate((64, 600, 64)):
        write_image(tmp_path / "source" / "ann" / f"{place}.png", width, 64, seed=place)
    assert run(tmp_path / "source", shift, tmp_path / "out", max_error_rate=0.5) == 0
    assert [(row.status, row.reason, row.width) for row in rows(tmp_path / "out")] == [
        ("written", None, 64), ("failed", "600x64 pixels, at most 512", 600), ("written", None, 64),
    ]  # fmt: skip
    assert verify(tmp_path / "out").problems == []


def test_a_source_of_which_nothing_can_be_translated_ends_with_status_3(shift: Path, tmp_path: Path) -> None:
    (tmp_path / "source" / "ann").mkdir(parents=True)
    (tmp_path / "source" / "ann" / "0.png").write_bytes(b"")
    assert run(tmp_path / "source", shift, tmp_path / "out") == 3
    assert verify(tmp_path / "out").problems == []


def test_an_output_that_is_not_finite_is_not_written(
    renders: Path, shift: Path, tmp_path: Path, shifted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FakeMethod.run

    def spoil(self: FakeMethod, networks: Any, inputs: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        outputs = whole(self, networks, inputs, keys)
        for row, (_, image) in enumerate(keys.tolist()):
            if image == 2:
                outputs[row, 1, 5, 5] = float("nan") if row % 2 else float("inf")
        return outputs

    monkeypatch.setattr(FakeMethod, "run", spoil)
    assert run(renders, shift, tmp_path / "out", max_error_rate=0.5) == 0
    assert verify(tmp_path / "out").problems == []
    assert {(row.image, row.reason) for row in rows(tmp_path / "out") if row.status == "failed"} == {
        (2, NOT_FINITE)
    }
    plain = images(shifted)
    assert all(np.array_equal(image, plain[key]) for key, image in images(tmp_path / "out").items())


def test_the_card_names_method_licence_and_rule(shifted: Path) -> None:
    text = (shifted / "README.md").read_text()
    assert "- vsait\n" in text
    assert "- arc2face\n" not in text
    assert "the program is CC BY-NC 4.0" in text
    assert "(no face-recognition model and no identity labels in the translation) is kept" in text
    document = json.loads((shifted / "dataset.json").read_text()) | {"breach": "it was trained with ArcFace"}
    totals = {"wanted": 24, "written": 24, "rejected": 0, "failed": 0}
    assert "is **broken**: it was trained with ArcFace." in card.render_card(document, totals)


@pytest.mark.parametrize("format", ["imagefolder", "webdataset"])
def test_the_report_shows_before_and_after(renders: Path, shift: Path, tmp_path: Path, format: str) -> None:
    source = damage(tmp_path / "source", renders)
    assert run(source, shift, tmp_path / "out", format=format, max_error_rate=0.5) == 0
    page = Page(write_report(tmp_path / "out"))
    shown = [name for name in page.images if name.startswith("translation of")]
    assert len(shown) == 20
    assert "render 4.png of 0" in page.images
    assert "translated by vsait" in page.text
    assert "20 of 24, 83.3 %" in page.text
    assert "1 without images" in page.text
    assert "truncated or damaged" in page.text
    assert "kept vsait is not known to use either." in page.text
    assert "Seconds per image" in page.text
    assert "Likeness" not in page.text
    assert all(stage in page.text for stage in ("decode", "translate", "encode", "write"))
    shutil.rmtree(source)
    page = Page(write_report(tmp_path / "out"))
    assert "The renders are no longer at" in page.text
    assert len([name for name in page.images if name.startswith("translation of")]) == 20


def test_the_report_says_how_the_rule_is_broken(
    renders: Path, shift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMethod, "breach", "its encoder was trained with ArcFace")
    assert run(renders, shift, tmp_path / "out", identities=1) == 0
    page = Page(write_report(tmp_path / "out"))
    assert "broken its encoder was trained with ArcFace." in page.text
    assert (
        "is **broken**: its encoder was trained with ArcFace." in (tmp_path / "out" / "README.md").read_text()
    )


def test_a_dataset_of_an_unknown_kind_is_said_to_be_one(shifted: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(shifted, tmp_path / "copy")
    document = json.loads((copy / "dataset.json").read_text()) | {"kind": "painted"}
    (copy / "dataset.json").write_bytes(dump(document))
    for path in copy.glob("*_stats.json"):
        marker = json.loads(path.read_text()) | {"dataset": document_digest(document)}
        path.write_bytes(dump(marker))
    assert verify(copy).problems == ["dataset.json has kind 'painted'"]
    with pytest.raises(
        UserError, match="a painted dataset, expected a generated or translated or converted one"
    ):
        open_training_set(copy)
    with pytest.raises(UserError, match="no usable kind"):
        write_report(copy)


@pytest.mark.parametrize("format", ["imagefolder", "webdataset"])
def test_training_reads_it(renders: Path, shift: Path, tmp_path: Path, format: str) -> None:
    source = damage(tmp_path / "source", renders)
    assert run(source, shift, tmp_path / "out", format=format, max_error_rate=0.5) == 0
    found = open_training_set(tmp_path / "out")
    assert len(found.labels) == 20
    assert (found.num_classes, found.num_empty) == (4, 1)
    plain = images(tmp_path / "out")
    wanted = [row for row in rows(tmp_path / "out") if row.status == "written"]
    for index, row in enumerate(wanted):
        assert found.class_name(int(found.labels[index])) == str(row.label)
        np.testing.assert_array_equal(decode(found.read(index)), plain[row.identity, row.stem])
