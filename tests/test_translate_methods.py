"""`translate` with each real method, in small: every image of DigiFace's samples comes out under its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.report import write_report
from d2r_fast.engine.verify import verify
from d2r_fast.translation.codeformer import random_weights as codeformer
from d2r_fast.translation.config import OWN, MethodName, TranslateRecipe
from d2r_fast.translation.diffusion import random_weights as diffusion
from d2r_fast.translation.gan import random_weights as gan
from d2r_fast.translation.method import Method
from d2r_fast.translation.methods import METHODS, find_method, open_method
from d2r_fast.translation.stylegan import random_weights as stylegan

from .fakedata import tree
from .fakereport import Page
from .translating import configure, expected, images, rows, run, sources

WRITERS: dict[MethodName, Callable[[Path], None]] = {
    "codeformer": lambda path: codeformer.write_random_weights(path, size="mini", seed=0),
    "vsait": lambda path: gan.write_random_weights(path, method="vsait", size="mini", seed=0),
    "decent": lambda path: gan.write_random_weights(path, method="decent", size="mini", seed=0),
    "unsb": lambda path: gan.write_random_weights(path, method="unsb", size="mini", seed=0),
    "ddim-inversion": lambda path: diffusion.write_random_weights(path, size="mini", seed=0),
    "stylegan-inversion": lambda path: stylegan.write_random_weights(path, size="mini", seed=0),
}
FEW: dict[MethodName, dict[str, Any]] = {"unsb": {"nfe": 2}, "ddim-inversion": {"steps": 1}}
"""Settings under which a method is quick."""
LONG = ("decent", "unsb", "ddim-inversion")
OURS = [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in METHODS]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[MethodName, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    paths: dict[MethodName, Path] = {name: folder / f"{name}.ckpt" for name in WRITERS}
    for name, path in paths.items():
        WRITERS[name](path)
    return paths


def test_every_name_has_a_class_and_its_own_settings() -> None:
    assert set(METHODS) == set(OWN) == set(WRITERS)
    for name in METHODS:
        kind = find_method(name)
        assert issubclass(kind, Method)
        assert name == kind.NAME


def test_settings_left_to_the_method_are_written_down() -> None:
    filled = {name: TranslateRecipe(method=name).filled() for name in METHODS}
    assert filled["codeformer"].w == 0.5
    assert filled["unsb"].nfe == 5
    assert filled["ddim-inversion"].steps == 50
    assert (filled["stylegan-inversion"].latent, filled["stylegan-inversion"].steps) == ("encoder", None)
    assert TranslateRecipe(method="stylegan-inversion", latent="w+").filled().steps == 1000
    assert TranslateRecipe(method="codeformer", w=0).filled().w == 0
    assert filled["vsait"] == TranslateRecipe(method="vsait")


@pytest.mark.parametrize("name", OURS)
def test_62_images_in_62_out(
    shared: Path, checkpoints: dict[MethodName, Path], tmp_path: Path, name: MethodName
) -> None:
    source, out = shared / "digiface-mini", tmp_path / "out"
    assert run(source, checkpoints[name], out, method=name, **FEW.get(name, {})) == 0
    assert verify(out).problems == []
    given, found = sources(source), images(out)
    assert len(given) == 62
    assert {key: image.shape for key, image in found.items()} == {
        key: image.shape for key, image in given.items()
    }
    assert {str(path.relative_to(out)) for path in out.glob("*/*.png")} == {
        str(path.relative_to(source).with_suffix(".png")) for path in source.glob("*/*.png")
    }
    document = json.loads((out / "dataset.json").read_text())
    page = Page(write_report(out)).text
    assert ("broken" if document["breach"] else "kept") in page
    assert f"translated by {name}" in page


@pytest.mark.parametrize("name", OURS)
def test_pixels_are_those_of_a_plain_loop(
    renders: Path, checkpoints: dict[MethodName, Path], tmp_path: Path, name: MethodName
) -> None:
    """One by one through the float32 modules, against batches of several through the pipeline."""
    changes: dict[str, Any] = {"method": name, "identities": 1, "batch_size": 4} | FEW.get(name, {})
    assert run(renders, checkpoints[name], tmp_path / "out", **changes) == 0
    recipe = configure(renders, checkpoints[name], tmp_path, **changes)
    method, given, found = open_method(recipe, checkpoints[name]), sources(renders), images(tmp_path / "out")
    for row in rows(tmp_path / "out")[::4]:
        key = row.identity, row.stem
        wanted = expected(method, given[key], identity=row.identity, number=row.image)
        assert np.ptp(wanted) > 0, "something is drawn"
        error = np.abs(wanted.astype(int) - found[key].astype(int)).max()
        assert error <= 1, "other than by rounding"


def test_an_engine_makes_what_torch_makes(
    renders: Path, checkpoints: dict[MethodName, Path], tmp_path: Path
) -> None:
    """OpenVINO's engine is built once and gives the same bytes in every batch; torch differs by rounding."""
    found = {}
    for name, changes in (
        ("torch", {}), ("engine", {"backend": "openvino"}), ("again", {"backend": "openvino", "batch_size": 3}),
    ):  # fmt: skip
        out = tmp_path / name
        assert (
            run(renders, checkpoints["vsait"], out, identities=1, engines=tmp_path / "engines", **changes)
            == 0
        )
        found[name] = images(out)
    assert tree(tmp_path / "engine") == tree(tmp_path / "again")
    for key, image in found["torch"].items():
        assert np.abs(image.astype(int) - found["engine"][key].astype(int)).max() <= 1
    versions = json.loads((tmp_path / "engine" / "dataset.json").read_text())["versions"]
    assert versions["openvino"] == find_backend("openvino").version(), "what computed is part of the document"
    (folder,) = (tmp_path / "engines").iterdir()
    assert folder.name.startswith("vsait-")
    assert (folder / "openvino" / "vsait-fp32-b1-112x112-rows.json").is_file()
