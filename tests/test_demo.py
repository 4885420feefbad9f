"""The demo, by the miniature that comes with the package: faces, each of the person whom it was asked for."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2r_fast.engine.demo import SETTINGS, run_demo
from d2r_fast.engine.models.check import check_models
from d2r_fast.engine.models.layout import RECOGNISER
from d2r_fast.engine.models.miniature import MINIATURE, PACKED, RENDERS, unpack_miniature
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.rows import IdentityRow, ImageRow, read_table

from .fakedata import tree


@pytest.fixture(scope="module")
def num_people() -> int:
    return len([*(MINIATURE / RENDERS).iterdir()])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert run_demo(out) == 0
    return out


def test_faces_are_found_in_nearly_all_images(demo: Path, num_people: int) -> None:
    rows = [
        row
        for path in sorted((demo / "dataset").glob("[0-9]*[0-9].parquet"))
        for row in read_table(ImageRow, path)
    ]
    assert len(rows) == num_people * SETTINGS["images_per_identity"]
    assert np.mean([row.status == "written" for row in rows]) >= 0.95


def test_everybody_is_most_alike_themselves(demo: Path, num_people: int) -> None:
    """By the cosine to the prototypes of all people, which the renders alone decide."""
    prototypes, images, people = [], [], []
    for path in sorted((demo / "dataset").glob("*_identities.parquet")):
        prototypes += [row.prototype for row in read_table(IdentityRow, path)]
    for path in sorted((demo / "dataset").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file is not None
                    images.append(np.asarray(Image.open(io.BytesIO(file.read()))))
                    people.append(int(member.name.split("_")[0]))
    found = Recogniser.load(demo / "models" / RECOGNISER.weights[0])(np.stack(images))
    cosines = found / np.linalg.norm(found, axis=1, keepdims=True) @ np.array(prototypes).T
    own = np.eye(num_people, dtype=bool)[people]
    assert cosines[own].mean() - cosines[~own].mean() >= 0.3
    assert np.mean(cosines.argmax(1) == people) >= 0.8


def test_the_page_shows_renders_and_faces(demo: Path, num_people: int) -> None:
    page = (demo / "dataset" / "report.html").read_text()
    assert page.count("data:image/") >= num_people * (1 + SETTINGS["images_per_identity"])
    assert "untrained" not in page


def test_a_second_call_changes_no_image(demo: Path) -> None:
    before = {path: data for path, data in tree(demo / "dataset").items() if path.endswith(".tar")}
    assert run_demo(demo) == 0
    assert before == {path: data for path, data in tree(demo / "dataset").items() if path.endswith(".tar")}


def test_the_packages_miniature_is_small_and_whole(tmp_path: Path) -> None:
    assert sum(path.stat().st_size for path in MINIATURE.rglob("*") if path.is_file()) < 25_000_000
    unpack_miniature(MINIATURE / PACKED, tmp_path / "models")
    report = check_models(tmp_path / "models")
    assert report.complete
    assert report.origin == "the trained miniature"
