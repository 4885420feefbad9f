"""`generate` in every backend that runs here: the same images accepted, and the same faces in them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2r_fast.engine import pipeline
from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.recogniser import Recogniser

from .test_pipeline import QUICK, crops, picky, psnr, rows


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def run(source: Path, models: Path, engines: Path, out: Path, **changes: Any) -> None:
    settings: dict[str, Any] = QUICK | {
        "source": source, "models": models, "out": out, "engines": engines, "identities": 2, "max_error_rate": 1.0,
    }  # fmt: skip
    assert pipeline.generate(GenerateConfig(**settings | changes)) == 0


@pytest.fixture(scope="module")
def reference(
    renders: Path, mini_models: Path, engines: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("torch") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load_detector", lambda *_, **__: picky)
        run(renders, mini_models, engines, out)
    return out


@pytest.mark.parametrize(
    ("backend", "recogniser"), [("openvino", "openvino"), ("onnxruntime", "torch"), ("auto", "auto")]
)
def test_the_same_images_are_accepted(
    reference: Path, renders: Path, mini_models: Path, engines: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, backend: str, recogniser: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(pipeline, "load_detector", lambda *_, **__: picky)
    out = tmp_path / "out"
    run(renders, mini_models, engines, out, backend=backend, recogniser_backend=recogniser)
    fates = [[(row.key, row.status, row.reason, row.attempts) for row in rows(d)] for d in (out, reference)]
    assert fates[0] == fates[1]
    assert {row.status for row in rows(out)} == {"written", "rejected"} or {
        row.attempts for row in rows(out)
    } != {1}, "nothing was rejected: the test shows little"
    ours, theirs = crops(out), crops(reference)
    embed = Recogniser.load(mini_models / "antelopev2" / "arcface.onnx")
    first, second = (embed(np.stack([images[key] for key in sorted(theirs)])) for images in (ours, theirs))
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    assert cosines.min() >= 0.995
    assert min(psnr(ours[key], theirs[key]) for key in theirs) >= 40


def test_auto_is_written_down_as_what_it_stands_for(
    renders: Path, mini_models: Path, engines: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(renders, mini_models, engines, out, backend="auto", images_per_identity=1, identities=1)
    recipe = json.loads((out / "dataset.json").read_text())["recipe"]
    assert (recipe["backend"], recipe["recogniser_backend"]) == ("openvino", "onnxruntime")
