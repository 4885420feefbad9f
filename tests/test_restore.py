"""`generate --restore`: what is restored, what of it is written down, and that nothing changes without it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2r_fast.engine import pipeline
from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.report import write_report
from d2r_fast.engine.restore import Restorer
from d2r_fast.engine.rows import IdentityRow, ImageRow, read_table
from d2r_fast.engine.vae import Decoded
from d2r_fast.engine.verify import verify
from d2r_fast.translation.codeformer.random_weights import write_random_weights

from .fakedata import tree
from .fakereport import Page
from .test_pipeline import QUICK, configure, crops, picky, rows

SMALL: dict[str, Any] = {"identities": 2, "images_per_identity": 4, "max_error_rate": 1.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("restore") / "codeformer.pth"
    write_random_weights(path, size="mini", seed=0)
    return path


def make(source: Path, models: Path, out: Path, **changes: Any) -> Path:
    assert pipeline.generate(configure(source, models, out, **SMALL | changes)) == 0
    return out


@pytest.fixture(scope="module")
def plain(renders: Path, mini_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(renders, mini_models, tmp_path_factory.mktemp("plain") / "out")


@pytest.fixture(scope="module")
def restored(
    renders: Path, mini_models: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return make(renders, mini_models, tmp_path_factory.mktemp("restored") / "out", restore=weights)


def recipe_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dataset.json").read_text())["recipe"]  # type: ignore[no-any-return]


def test_without_it_the_document_is_as_before(plain: Path) -> None:
    assert not {name for name in recipe_of(plain) if "restore" in name}
    assert "CodeFormer" not in (plain / "README.md").read_text()


def test_the_document_says_what_restored(restored: Path, weights: Path, tmp_path: Path) -> None:
    document = json.loads((restored / "dataset.json").read_text())
    assert document["recipe"]["restore"] == document["models"]["codeformer"]["sha256"] == sha256_file(weights)
    assert document["recipe"]["restore_w"] == 0.5
    assert any("S-Lab" in licence for licence in document["licences"])
    assert "CodeFormer then restored the photographs" in (restored / "README.md").read_text()
    assert not verify(restored).problems
    assert (
        "restore accepted images by CodeFormer"
        in Page(write_report(restored, out=tmp_path / "page.html")).text
    )


def test_rows_differ_in_what_the_crop_shows_alone(plain: Path, restored: Path) -> None:
    for before, after in zip(rows(plain), rows(restored), strict=True):
        differing = {
            name for name in ImageRow.__dataclass_fields__ if getattr(before, name) != getattr(after, name)
        }
        assert differing == {"cos_prototype", "cos_latent"}
    before, after = crops(plain), crops(restored)
    assert before.keys() == after.keys()
    assert all(np.abs(before[key].astype(int) - after[key]).mean() > 5 for key in before)


def test_similarities_are_those_of_the_written_crops(restored: Path, mini_models: Path) -> None:
    pixels, embed = crops(restored), Recogniser.load(mini_models / "antelopev2" / "arcface.onnx")
    found = {
        row.identity: row
        for path in sorted(restored.glob("*_identities.parquet"))
        for row in read_table(IdentityRow, path)
    }
    for row in rows(restored):
        embedding = embed(pixels[row.identity, row.image][None])[0].astype(np.float64)
        prototype = np.asarray(found[row.identity].prototype, np.float64)
        cosine = embedding @ prototype / np.linalg.norm(embedding) / np.linalg.norm(prototype)
        assert row.cos_prototype == pytest.approx(cosine, abs=1e-5)


def test_accepted_images_alone_are_restored(
    renders: Path, mini_models: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    genuine = Restorer.__call__

    def count(self: Restorer, images: torch.Tensor) -> Decoded:
        calls.append(len(images))
        assert images.shape[1:] == (64, 64, 3)  # before they are cropped
        return genuine(self, images)

    monkeypatch.setattr(Restorer, "__call__", count)
    monkeypatch.setattr(pipeline, "load_detector", lambda *_, **__: picky)
    out = make(renders, mini_models, tmp_path / "out", restore=weights, images_per_identity=6)
    written = sum(row.status == "written" for row in rows(out))
    drawn = sum(row.attempts for row in rows(out))
    assert sum(calls) == written < drawn


def test_an_image_does_not_depend_on_its_batch(
    restored: Path,
    renders: Path,
    mini_models: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "FINISH_BATCH", 3)
    out = make(renders, mini_models, tmp_path / "out", restore=weights)
    contents = [
        {name: d for name, d in tree(folder).items() if "events" not in name} for folder in (out, restored)
    ]
    assert contents[0] == contents[1]


def test_what_does_not_come_out_finite_is_not_written(
    renders: Path, mini_models: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from d2r_fast.translation.codeformer.method import CodeFormer

    def overflow(self: CodeFormer, networks: Any, inputs: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return torch.full_like(inputs, float("nan"))

    monkeypatch.setattr(CodeFormer, "run", overflow)
    settings = SMALL | {"restore": weights, "attempts": 1}
    pipeline.generate(configure(renders, mini_models, tmp_path / "out", **settings))
    assert {(row.status, row.reason) for row in rows(tmp_path / "out")} <= {
        ("failed", "not finite"), ("rejected", "not finite"),
    }  # fmt: skip


def test_w_decides_and_is_part_of_the_recipe(
    restored: Path, renders: Path, mini_models: Path, weights: Path, tmp_path: Path
) -> None:
    out = make(renders, mini_models, tmp_path / "out", restore=weights, restore_w=0.0)
    assert recipe_of(out)["restore_w"] == 0.0
    before, after = crops(restored), crops(out)
    assert any((before[key] != after[key]).any() for key in before)
    with pytest.raises(UserError, match="restore_w"):
        make(renders, mini_models, out, restore=weights, restore_w=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restore": Path("nowhere.pth")}, "nowhere.pth"),
        ({"width": 96}, "96x64 pixels, and codeformer takes squares: leave --restore out"),
    ],
)
def test_what_cannot_be_restored_is_said_before_the_first_image(
    renders: Path, mini_models: Path, weights: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        make(renders, mini_models, tmp_path / "out", **{"restore": weights} | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_w_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="restore_w belongs to restore"):
        GenerateConfig(**QUICK | {"source": tmp_path, "models": tmp_path, "out": tmp_path, "restore_w": 0.5})
