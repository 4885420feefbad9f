"""`translate` from end to end with a method of a few numbers: one image in, one image out, whatever happens."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2r_fast.engine import card
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.decode import decode
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.marker import document_digest, dump
from d2r_fast.engine.report import write_report
from d2r_fast.engine.verify import verify
from d2r_fast.recognition.training.training_set import open_training_set
from d2r_fast.translation import translate as command
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.flow import NOT_FINITE

from .fakedata import names_in, tree
from .fakemethod import FakeMethod, use_fake_method, write_weights
from .fakereport import Page
from .translating import configure, damage, expected, images, mixed_sizes, rows, run, sources, write_image


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_method(monkeypatch)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture(scope="module")
def made(renders: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn people, translated; not to be changed."""
    out = tmp_path_factory.mktemp("made") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        use_fake_method(patch)
        assert run(renders, weights, out) == 0
    return out


def test_every_image_comes_out_once_under_its_name(made: Path, renders: Path) -> None:
    found = {str(path.relative_to(made)) for path in made.glob("*/*.png")}
    assert found == {str(path.relative_to(renders)) for path in renders.glob("*/*.png")}
    assert len(found) == 24
    assert verify(made).problems == []
    assert {row.status for row in rows(made)} == {"written"}
    document = json.loads((made / "dataset.json").read_text())
    assert document["kind"] == "translated"
    assert "images_per_identity" not in document["plan"]
    assert document["plan"]["wanted"] == 24


def test_pixels_are_those_of_a_plain_loop(made: Path, renders: Path, weights: Path) -> None:
    """An image's bytes depend on its pixels, its name and the seed, and so does its noise."""
    method = FakeMethod.open(weights, TranslateRecipe(method="vsait"))
    found, given = images(made), sources(renders)
    assert found.keys() == given.keys()
    for row in rows(made)[::5]:
        image = given[row.identity, row.stem]
        wanted = expected(method, image, identity=row.identity, number=row.image)
        np.testing.assert_array_equal(found[row.identity, row.stem], wanted)
        other = expected(method, image, identity=row.identity, number=row.image + 1)
        assert not np.array_equal(other, wanted), "noise is keyed by image"


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1}, {"batch_size": 5, "num_threads": 1}, {"batch_size": 64, "num_threads": 7}]
)
def test_neither_batch_nor_threads_change_a_byte(
    made: Path, renders: Path, weights: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    assert run(renders, weights, tmp_path / "out", **changes) == 0
    assert tree(tmp_path / "out") == tree(made)


def test_another_seed_or_size_is_another_dataset(
    renders: Path, weights: Path, tmp_path: Path, made: Path
) -> None:
    for name, changes in (("seed", {"seed": 1}), ("size", {"size": 64})):
        assert run(renders, weights, tmp_path / name, identities=1, **changes) == 0
        found, plain = images(tmp_path / name), images(made)
        assert all(not np.array_equal(image, plain[key]) for key, image in found.items())
        assert all(image.shape == plain[key].shape for key, image in found.items())


@pytest.mark.parametrize("format", ["imagefolder", "webdataset"])
@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_formats_hold_the_same_images(
    made: Path, renders: Path, weights: Path, tmp_path: Path, format: str, image_format: str
) -> None:
    out = tmp_path / "out"
    assert run(renders, weights, out, format=format, image_format=image_format) == 0
    assert verify(out).problems == []
    found, plain = images(out), images(made)
    assert found.keys() == plain.keys()
    for key, image in found.items():
        error = np.abs(image.astype(int) - plain[key].astype(int)).mean()
        assert error == 0 if image_format == "png" else 0 < error < 3


def test_sizes_may_be_mixed_and_are_kept(weights: Path, tmp_path: Path) -> None:
    """Sides that the network cannot take are padded and cropped back; batches hold one size each."""
    source = mixed_sizes(tmp_path / "source")
    for name, changes in (("a", {}), ("b", {"batch_size": 2, "num_threads": 3})):
        assert run(source, weights, tmp_path / name, identities_per_shard=1, **changes) == 0
    assert verify(tmp_path / "a").problems == []
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    found, given = images(tmp_path / "a"), sources(source)
    assert {key: image.shape for key, image in found.items()} == {
        key: image.shape for key, image in given.items()
    }
    method = FakeMethod.open(weights, TranslateRecipe(method="vsait"))
    for row in rows(tmp_path / "a")[:7]:
        wanted = expected(method, given[row.identity, row.stem], identity=row.identity, number=row.image)
        np.testing.assert_array_equal(found[row.identity, row.stem], wanted)


def test_damaged_images_fail_and_say_why(renders: Path, weights: Path, tmp_path: Path, made: Path) -> None:
    source = damage(tmp_path / "source", renders)
    assert run(source, weights, tmp_path / "out") == 3
    assert run(source, weights, tmp_path / "out", max_error_rate=0.5) == 0
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
    found, plain = images(tmp_path / "out"), images(made)
    assert len(found) == 20
    assert all(np.array_equal(image, plain[key]) for key, image in found.items())


def test_an_image_that_does_not_fit_the_method_fails(weights: Path, tmp_path: Path) -> None:
    for place, width in enumerate((64, 600, 64)):
        write_image(tmp_path / "source" / "ann" / f"{place}.png", width, 64, seed=place)
    assert run(tmp_path / "source", weights, tmp_path / "out", max_error_rate=0.5) == 0
    assert [(row.status, row.reason, row.width) for row in rows(tmp_path / "out")] == [
        ("written", None, 64), ("failed", "600x64 pixels, at most 512", 600), ("written", None, 64),
    ]  # fmt: skip
    assert verify(tmp_path / "out").problems == []


def test_a_source_of_which_nothing_can_be_translated_ends_with_status_3(
    weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "source" / "ann").mkdir(parents=True)
    (tmp_path / "source" / "ann" / "0.png").write_bytes(b"")
    assert run(tmp_path / "source", weights, tmp_path / "out") == 3
    assert verify(tmp_path / "out").problems == []


def test_an_output_that_is_not_finite_is_not_written(
    renders: Path, weights: Path, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FakeMethod.run

    def spoil(self: FakeMethod, networks: Any, inputs: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        outputs = whole(self, networks, inputs, keys)
        for row, (_, image) in enumerate(keys.tolist()):
            if image == 2:
                outputs[row, 1, 5, 5] = float("nan") if row % 2 else float("inf")
        return outputs

    monkeypatch.setattr(FakeMethod, "run", spoil)
    assert run(renders, weights, tmp_path / "out", max_error_rate=0.5) == 0
    assert verify(tmp_path / "out").problems == []
    assert {(row.image, row.reason) for row in rows(tmp_path / "out") if row.status == "failed"} == {
        (2, NOT_FINITE)
    }
    plain = images(made)
    assert all(np.array_equal(image, plain[key]) for key, image in images(tmp_path / "out").items())


def test_a_failing_network_ends_the_run_in_one_line_and_it_goes_on_later(
    renders: Path, weights: Path, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = FakeMethod.run, 0

    def fail(self: FakeMethod, networks: Any, inputs: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise RunError("shift failed in torch (no memory)")
        return whole(self, networks, inputs, keys)

    with monkeypatch.context() as patch:
        patch.setattr(FakeMethod, "run", fail)
        with pytest.raises(
            RunError, match=r"shift failed .* at images 0000\d\d_\d{3} to .*the same command goes on"
        ):
            run(renders, weights, tmp_path / "out", batch_size=2)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert run(renders, weights, tmp_path / "out") == 0
    assert tree(tmp_path / "out") == tree(made)


def test_a_stopped_run_keeps_what_was_finished(
    renders: Path, weights: Path, tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = command.write_shard, 1

    def stop(*arguments: Any, **settings: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return write(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(command, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            run(renders, weights, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("00000*")}
    assert len(before) == 4
    assert run(renders, weights, tmp_path / "out") == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("00000*")}
    assert tree(tmp_path / "out") == tree(made)


def test_a_killed_run_ends_in_the_same_bytes(renders: Path, weights: Path, tmp_path: Path) -> None:
    """SIGKILL at several moments, then a run that nothing disturbs; transkiller.py checks what is seen meanwhile."""
    script = Path(__file__).with_name("transkiller.py")
    done = subprocess.run(
        [sys.executable, str(script), str(renders), str(weights), str(tmp_path)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 3, "no run was slow enough to be killed"
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert verify(tmp_path / "killed").problems == []


def test_a_run_that_is_done_does_nothing_more(
    made: Path, renders: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMethod, "networks", lambda self, size: pytest.fail("opened networks for nothing"))
    assert run(renders, weights, made) == 0


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"size": 64}, {"image_format": "jpg"}, {"precision": "bf16"}]
)
def test_another_recipe_is_refused_and_named(
    made: Path, renders: Path, weights: Path, change: dict[str, Any]
) -> None:
    before = tree(made)
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=rf"recipe\.{name} is .*, given {json.dumps(value)}"):
        run(renders, weights, made, **change)
    assert tree(made) == before


def test_other_weights_or_another_source_are_refused_and_named(
    made: Path, renders: Path, patterns: Path, weights: Path, tmp_path: Path
) -> None:
    other = write_weights(tmp_path / "w.safetensors", seed=1)
    with pytest.raises(UserError, match=r"models\.vsait\.sha256 is"):
        run(renders, other, made)
    with pytest.raises(UserError, match=r"source\.name is .*source\.fingerprint is"):
        run(patterns, weights, made)


def test_a_generated_dataset_is_not_gone_on_with(
    renders: Path, weights: Path, made: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    document = json.loads((copy / "dataset.json").read_text())
    del document["kind"]
    (copy / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match='kind is absent, given "translated"'):
        run(renders, weights, copy)


def test_two_sources_of_one_name_are_refused(weights: Path, tmp_path: Path) -> None:
    for name in ("0.png", "0.jpg", "1.png"):
        write_image(tmp_path / "source" / "ann" / name, 32, 32)
    with pytest.raises(
        UserError, match=r"identity ann has 0\.jpg and 0\.png, which would both be called 0: rename"
    ):
        run(tmp_path / "source", weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "source", weights, tmp_path / "out", format="webdataset") == 0
    assert verify(tmp_path / "out").problems == []


def test_bad_places_are_refused_before_anything_is_made(renders: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "hollow" / "ann").mkdir(parents=True)
    out = tmp_path / "out"
    refused = [
        (lambda: run(tmp_path / "none", weights, out), "does not exist"),
        (lambda: run(tmp_path / "empty", weights, out), "holds no identity folders"),
        (lambda: run(tmp_path / "file", weights, out), "is a file"),
        (lambda: run(tmp_path / "hollow", weights, out), "not one image"),
        (lambda: run(renders, tmp_path / "none.pth", out), r"none\.pth is missing"),
        (lambda: run(renders, weights, renders / "out"), "lies in the source"),
        (lambda: run(renders, weights, tmp_path / "file"), "file"),
        (lambda: run(renders, weights, tmp_path / "other"), "other"),
        (lambda: run(renders, weights, out, identities=99), "has 4, give at most that"),
        (lambda: run(renders, weights, out, device="cuda:7"), "device 'cuda:7' is not there"),
        (lambda: run(renders, weights, out, backend="tensorrt"), "backend tensorrt"),
        (lambda: run(renders, weights, out, backend="onnxruntime", precision="bf16"), "bf16"),
    ]
    for attempt, message in refused:
        with pytest.raises(UserError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == ["empty", "file", "hollow", "other"]


def test_settings_of_another_method_are_refused(renders: Path, weights: Path, tmp_path: Path) -> None:
    for name, value, owner in (("w", 0.5, "codeformer"), ("nfe", 3, "unsb"), ("steps", 9, "ddim-inversion")):
        with pytest.raises(UserError, match=f"{name} belongs to .*{owner}.*, not to vsait"):
            configure(renders, weights, tmp_path, **{name: value})
    with pytest.raises(UserError, match=r"w = 1\.5: input should be less than or equal to 1"):
        configure(renders, weights, tmp_path, method="codeformer", w=1.5)


def test_a_folder_in_use_and_a_full_disk_are_one_line(
    renders: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Dataset.open(tmp_path / "out", _document(renders, weights, tmp_path / "out"))
    with opened, pytest.raises(RunError, match="is in use by process"):
        run(renders, weights, tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Full())
    with pytest.raises(RunError, match=r"free"):
        run(renders, weights, tmp_path / "out")


class _Full:
    total, used, free = 10**9, 10**9, 0


def _document(renders: Path, weights: Path, out: Path) -> dict[str, Any]:
    config = command.settle(configure(renders, weights, out), "cpu")
    source, members = command.prepare(config)
    return command.describe(config, source, members, FakeMethod.open(weights, config))


def test_the_card_names_method_licence_and_rule(made: Path) -> None:
    text = (made / "README.md").read_text()
    assert "- vsait\n" in text
    assert "- arc2face\n" not in text
    assert "the program is CC BY-NC 4.0" in text
    assert "(no face-recognition model and no identity labels in the translation) is kept" in text
    document = json.loads((made / "dataset.json").read_text()) | {"breach": "it was trained with ArcFace"}
    totals = {"wanted": 24, "written": 24, "rejected": 0, "failed": 0}
    assert "is **broken**: it was trained with ArcFace." in card.render_card(document, totals)


@pytest.mark.parametrize("format", ["imagefolder", "webdataset"])
def test_the_report_shows_before_and_after(renders: Path, weights: Path, tmp_path: Path, format: str) -> None:
    source = damage(tmp_path / "source", renders)
    assert run(source, weights, tmp_path / "out", format=format, max_error_rate=0.5) == 0
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
    renders: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMethod, "breach", "its encoder was trained with ArcFace")
    assert run(renders, weights, tmp_path / "out", identities=1) == 0
    page = Page(write_report(tmp_path / "out"))
    assert "broken its encoder was trained with ArcFace." in page.text
    assert (
        "is **broken**: its encoder was trained with ArcFace." in (tmp_path / "out" / "README.md").read_text()
    )


def test_a_dataset_of_an_unknown_kind_is_said_to_be_one(made: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    document = json.loads((copy / "dataset.json").read_text()) | {"kind": "painted"}
    (copy / "dataset.json").write_bytes(dump(document))
    for path in copy.glob("*_stats.json"):
        marker = json.loads(path.read_text()) | {"dataset": document_digest(document)}
        path.write_bytes(dump(marker))
    assert verify(copy).problems == ["dataset.json has kind 'painted'"]
    with pytest.raises(UserError, match="a painted dataset, expected a generated or translated one"):
        open_training_set(copy)
    with pytest.raises(UserError, match="no usable kind"):
        write_report(copy)


@pytest.mark.parametrize("format", ["imagefolder", "webdataset"])
def test_training_reads_it(renders: Path, weights: Path, tmp_path: Path, format: str) -> None:
    source = damage(tmp_path / "source", renders)
    assert run(source, weights, tmp_path / "out", format=format, max_error_rate=0.5) == 0
    found = open_training_set(tmp_path / "out")
    assert len(found.labels) == 20
    assert (found.num_classes, found.num_empty) == (4, 1)
    plain = images(tmp_path / "out")
    wanted = [row for row in rows(tmp_path / "out") if row.status == "written"]
    for index, row in enumerate(wanted):
        assert found.class_name(int(found.labels[index])) == str(row.label)
        np.testing.assert_array_equal(decode(found.read(index)), plain[row.identity, row.stem])
