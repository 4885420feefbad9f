"""Commands on a zip or tar: what they make is, byte for byte, what they make of the folder that it was made from."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine import pipeline
from d2r_fast.engine.embed import embed_source
from d2r_fast.engine.report import write_report
from d2r_fast.recognition.training.train import train
from d2r_fast.translation.compare.compare import compare
from d2r_fast.translation.compare.config import CompareConfig

from .fakedata import tree
from .fakemethod import use_fake_method
from .fakeruns import config, same_weights
from .test_pipeline import configure
from .translating import run


@pytest.fixture(scope="module")
def zipped(renders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample renders as DigiFace's zips are: all in a folder."""
    return archive(renders, tmp_path_factory.mktemp("zipped"), "zip")


def archive(folder: Path, out: Path, kind: str) -> Path:
    """The folder, and its name as the top one, in an archive that is called like it."""
    return Path(shutil.make_archive(str(out / folder.name), kind, folder.parent, folder.name))


def test_generate(renders: Path, zipped: Path, mini_models: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {"identities": 2, "images_per_identity": 2, "images_per_latent": 1}
    for source, out in ((renders, "folder"), (zipped, "zip")):
        assert pipeline.generate(configure(source, mini_models, tmp_path / out, **small)) == 0
    assert tree(tmp_path / "zip") == tree(tmp_path / "folder")
    write_report(tmp_path / "zip")
    assert "cannot be read where they were" not in (tmp_path / "zip" / "report.html").read_text()
    assert (tmp_path / "zip" / "report.html").read_text().count("data:image/webp") == pictures(
        tmp_path / "folder"
    )


def pictures(dataset: Path) -> int:
    write_report(dataset)
    return (dataset / "report.html").read_text().count("data:image/webp")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_translate(
    renders: Path, shift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    use_fake_method(monkeypatch)
    for source, out in ((renders, "folder"), (archive(renders, tmp_path, kind), "packed")):
        assert run(source, shift, tmp_path / out) == 0
    assert tree(tmp_path / "packed") == tree(tmp_path / "folder")


def test_a_dataset_translates_alike_in_both_formats(
    renders: Path, shift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webdataset is read where it lies, as an imagefolder always was."""
    use_fake_method(monkeypatch)
    for format in ("webdataset", "imagefolder"):
        assert run(renders, shift, tmp_path / format / "first", format=format, image_format="png") == 0
        assert run(tmp_path / format / "first", shift, tmp_path / format / "second") == 0
    assert tree(tmp_path / "webdataset" / "second") == tree(tmp_path / "imagefolder" / "second")


def test_embed(renders: Path, zipped: Path, mini_models: Path, tmp_path: Path) -> None:
    for source, out in ((renders, "folder.parquet"), (zipped, "zip.parquet")):
        assert embed_source(
            source, models=mini_models, out=tmp_path / out, recogniser=None, source_alignment="auto",
            detector="template", batch_size=8, device="cpu", recogniser_device="auto",
        ) == 0  # fmt: skip
    assert (tmp_path / "zip.parquet").read_bytes() == (tmp_path / "folder.parquet").read_bytes()


def test_train(patterns: Path, tmp_path: Path) -> None:
    packed = archive(patterns, tmp_path, "zip")
    for data, out in ((patterns, "folder"), (packed, "zip")):
        assert train(config(data, tmp_path / out, epochs=1)) == 0
    assert same_weights(tmp_path / "folder", tmp_path / "zip")


def test_compare(
    renders: Path, zipped: Path, shift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_method(monkeypatch)
    made = []
    for source, out in ((renders, "folder"), (zipped, "zip")):
        columns = f"vsait={shift}"
        page = CompareConfig(
            source=source, methods=columns, out=tmp_path / out, images=4, backend="torch", device="cpu"
        )
        assert compare(page) == 0
        document = json.loads((tmp_path / out / "results.json").read_text())
        assert document.pop("source") == source.name
        assert document["columns"][0].pop("seconds_per_image") > 0
        made.append((document, re.findall(r'"data:image[^"]+"', (tmp_path / out / "page.html").read_text())))
    assert made[0] == made[1]
    assert len(made[0][1]) >= 8
