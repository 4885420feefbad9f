"""FID and KID of the quality command, through a stand-in for torch-fidelity: what is compared, and what is refused."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.recognition.quality.realism import find_inception

from .fakequality import IDENTITIES, IMAGES, damage_two, draw_people, measure, write_thumbnail


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thumbnail(tmp_path_factory.mktemp("network") / "thumbnail.onnx")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_people(tmp_path_factory.mktemp("drawn") / "people")


@pytest.fixture
def damaged(drawn: Path, tmp_path: Path) -> Path:
    return damage_two(drawn, tmp_path / "damaged")


@pytest.fixture
def inception(tmp_path: Path) -> Path:
    path = tmp_path / "inception.pth"
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    return path


def fake_fidelity(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., dict[str, float]]) -> None:
    module = types.ModuleType("torch_fidelity")
    module.calculate_metrics = answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)


def test_realism_without_torch_fidelity_is_refused_at_once(
    drawn: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r"pip install 'd2r-fast\[realism\]'"):
        measure(drawn, network, tmp_path / "out", real=drawn)


def test_realism_without_weights_is_refused_and_nothing_is_downloaded(
    drawn: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_fidelity(monkeypatch, lambda **_: pytest.fail("called without weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"weights-inception-2015-12-05-6726825d\.pth is missing"):
        measure(drawn, network, tmp_path / "out", real=drawn)
    harmful = tmp_path / "harmful.pth"
    torch.save({"run": print}, harmful)
    with pytest.raises(UserError, match="holds no weights of Inception"):
        measure(drawn, network, tmp_path / "out", real=drawn, inception=harmful)


def test_a_bug_in_reading_weights_stays_loud(inception: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(torch, "load", stumble)
    with pytest.raises(ZeroDivisionError):
        find_inception(inception)


def test_realism_compares_the_crops(
    drawn: Path,
    damaged: Path,
    network: Path,
    inception: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(**given: Any) -> dict[str, float]:
        ours, theirs = given["input1"], given["input2"]
        assert (len(ours), len(theirs)) == (IDENTITIES * IMAGES, IDENTITIES * IMAGES - 2)
        assert ours[0].dtype == torch.uint8
        np.testing.assert_array_equal(ours[0].permute(1, 2, 0), Image.open(drawn / "0" / "0.png"))
        assert given["kid_subset_size"] == IDENTITIES * IMAGES - 2
        assert given["feature_extractor_weights_path"] == str(inception)
        assert not given["cuda"]
        return {
            "frechet_inception_distance": 12.5, "kernel_inception_distance_mean": 0.25,
            "kernel_inception_distance_std": 0.125,
        }  # fmt: skip

    fake_fidelity(monkeypatch, answer)
    document = measure(drawn, network, tmp_path / "out", real=damaged, inception=inception)
    found = document["measures"]
    assert (found["fid"], found["kid"], found["kid_std"]) == (12.5, 0.25, 0.125)
    assert document["realism"]["num_real"] == IDENTITIES * IMAGES - 2
    assert [one["key"] for one in document["unusable"]] == ["3/1.png", "5/2.png"]
    assert any("not the published ones" in text for text in document["warnings"])
    assert "| FID | 12.5000 |" in (tmp_path / "out" / "quality.md").read_text()


def test_photographs_that_cannot_be_read_count_too(
    drawn: Path,
    damaged: Path,
    network: Path,
    inception: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_fidelity(monkeypatch, lambda **_: pytest.fail("compared what is left"))
    for dataset, lost in ((drawn, 2), (damaged, 4)):
        with pytest.raises(
            UserError, match=rf"{lost} images of dataset and damaged .*and {lost - 1} may be left out"
        ):
            measure(
                dataset, network, tmp_path / str(lost), real=damaged, inception=inception,
                max_unreadable=lost - 1,
            )  # fmt: skip


def test_torch_fidelity_that_fails_is_a_failed_run(
    drawn: Path, network: Path, inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> dict[str, float]:
        raise RuntimeError("state_dict does not fit\nmore")

    fake_fidelity(monkeypatch, fail)
    with pytest.raises(RunError, match=r"torch-fidelity failed: state_dict does not fit$"):
        measure(drawn, network, tmp_path / "out", real=drawn, inception=inception)
