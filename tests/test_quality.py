"""The quality command: on images, on spoilt copies of them, and on what cannot be measured."""

import json
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.samples import draw_samples
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.network_file import save_network
from d2r_fast.recognition.quality.catalogue import CATALOGUE
from d2r_fast.recognition.quality.config import QualityConfig
from d2r_fast.recognition.quality.crops import choose_any, choose_images
from d2r_fast.recognition.quality.quality import run_quality
from d2r_fast.recognition.training.training_set import open_training_set

from .fakedata import make_dataset, make_document
from .spoil import double_identities, remove_variety, shuffle_labels

IDENTITIES, IMAGES = 8, 5


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fixed recogniser of a kind: the colours of an 8x8 thumbnail."""
    nodes = [
        helper.make_node("AveragePool", ["data"], ["small"], kernel_shape=[14, 14], strides=[14, 14]),
        helper.make_node("Flatten", ["small"], ["embedding"]),
    ]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 192])
    graph = helper.make_graph(nodes, "thumbnail", [data], [embedding])
    path = tmp_path_factory.mktemp("network") / "thumbnail.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "people"
    draw_samples(folder, num_identities=IDENTITIES, images_per_identity=IMAGES)
    return folder


def measure(dataset: Path, recogniser: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """quality.json of a dataset."""
    config = QualityConfig(dataset=dataset, recogniser=recogniser, out=out, device="cpu", **settings)
    assert run_quality(config) == 0
    document: dict[str, Any] = json.loads((out / "quality.json").read_text())
    return document


def compare(
    images: Path, recogniser: Path, folder: Path, moves: dict[Callable[..., Path], dict[str, int]]
) -> None:
    """See that each spoiling moves the measures it must, and that the clean set ranks first."""
    clean = measure(images, recogniser, folder / "clean-quality")["measures"]
    for spoil, expected in moves.items():
        name = spoil.__name__
        spoilt = measure(spoil(images, folder / name), recogniser, folder / f"{name}-quality")["measures"]
        assert spoilt["consistent_variety"] < 0.95 * clean["consistent_variety"], name
        for key, way in expected.items():
            before, after = clean[key], spoilt[key]
            if way:
                assert way * (after - before) > 0.01 * abs(before), f"{name}, {key}: {before} -> {after}"
            else:
                assert after == pytest.approx(before, rel=1e-3, abs=1e-6), (
                    f"{name}, {key}: {before} -> {after}"
                )


def test_spoilt_drawings_rank_below_clean_ones(drawn: Path, network: Path, tmp_path: Path) -> None:
    compare(
        drawn, network, tmp_path,
        {
            shuffle_labels: {
                "neighbour_consistency": -1, "consistency_with_others": -1, "genuine_mean": -1, "fdr": -1,
                "d_prime": -1, "eer": +1, "diversity_between_images": +1, "effective_rank": 0, "vendi": 0,
            },
            double_identities: {
                "uniqueness": -1, "duplicate_pairs": +1, "neighbour_consistency": -1, "impostor_mean": +1,
                "eer": +1, "fdr": -1, "d_prime": -1, "identity_consistency": 0, "diversity_between_images": 0,
                "effective_rank": 0, "normalised_effective_rank": -1,
            },
            remove_variety: {
                "diversity_to_centre": -1, "diversity_between_images": -1, "effective_rank": -1,
                "effective_rank_within": -1, "vendi": -1, "genuine_mean": +1,
            },
        },
    )  # fmt: skip


def test_spoilt_photographs_rank_below_clean_ones(shared: Path, tmp_path: Path) -> None:
    """Genuine DigiFace-1M renders, seen by a real recogniser (trained on MS-Celeb-1M, which is withdrawn)."""
    recogniser = tmp_path / "mobilefacenet.onnx"
    shutil.copy(shared / "weights" / "foamliu_MobileFaceNet.onnx", recogniser)
    rule = {"channels": "rgb", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    recogniser.with_suffix(".json").write_text(json.dumps(rule))
    compare(
        shared / "digiface-mini", recogniser, tmp_path,
        {
            shuffle_labels: {
                "intrinsic_quality": -1, "neighbour_consistency": -1, "consistency_with_others": -1, "fdr": -1,
                "d_prime": -1, "eer": +1, "genuine_mean": -1, "diversity_between_images": +1,
            },
            double_identities: {
                "intrinsic_quality": -1, "uniqueness": -1, "duplicate_pairs": +1, "duplicate_identities": +1,
                "neighbour_consistency": -1, "eer": +1, "fdr": -1, "d_prime": -1, "diversity_between_images": 0,
            },
            remove_variety: {
                "intrinsic_quality": -1, "diversity_to_centre": -1, "diversity_between_images": -1,
                "effective_rank": -1, "vendi": -1, "d_prime": +1,
            },
        },
    )  # fmt: skip
    clean = json.loads((tmp_path / "clean-quality" / "quality.json").read_text())["measures"]
    assert (clean["num_images"], clean["num_identities"]) == (62, 7)
    assert clean["duplicate_pairs"] == 0
    assert clean["neighbour_consistency"] > 0.95
    assert clean["eer"] < 0.03


def test_a_run_says_everything(
    drawn: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = measure(drawn, network, tmp_path / "out")
    page, printed = (tmp_path / "out" / "quality.md").read_text(), capsys.readouterr().out
    for name, value in document["measures"].items():
        assert value is None or np.isfinite(value), name
        assert f"| {CATALOGUE[name].title} |" in page
        assert CATALOGUE[name].title in printed
    assert document["measures"]["num_images"] == IDENTITIES * IMAGES
    assert document["dataset"]["fingerprint"] == open_training_set(drawn).fingerprint()
    assert document["recogniser"]["sha256"] == sha256_file(network)
    assert document["realism"] == {"measured": False, "reason": "no real photographs were given (--real)"}
    assert "FID and KID: not measured" in page
    assert "FID and KID: not measured" in printed
    first = document["most_alike"][0]
    assert {first["first"], first["second"]} <= {str(identity) for identity in range(IDENTITIES)}
    assert str(tmp_path) not in json.dumps(document)


def test_figures_depend_on_neither_batch_nor_threads(drawn: Path, network: Path, tmp_path: Path) -> None:
    one, other = (
        measure(drawn, network, tmp_path / str(size), batch_size=size)["measures"] for size in (1, 29)
    )
    assert one == other


def test_a_part_is_chosen_by_the_seed_and_said(drawn: Path, network: Path, tmp_path: Path) -> None:
    def part(seed: int, name: str) -> dict[str, Any]:
        return measure(drawn, network, tmp_path / name, identities=5, images_per_identity=3, seed=seed)

    first, again, other = part(1, "a"), part(1, "b"), part(2, "c")
    assert first["measures"]["num_identities"] == 5
    assert first["measures"]["num_images"] == 15
    assert first["measures"] == again["measures"] != other["measures"]
    assert any("A part of the dataset" in text for text in first["warnings"])


def test_images_are_chosen_by_key_alone(drawn: Path) -> None:
    images = open_training_set(drawn)
    few, more = (choose_images(images, per_identity=num, seed=0) for num in (2, 5))
    assert set(few.tolist()) < set(more.tolist())
    np.testing.assert_array_equal(np.bincount(images.labels[few]), np.full(IDENTITIES, 2))
    assert len(choose_images(images, per_identity=100, seed=0)) == IDENTITIES * IMAGES
    assert few.tolist() != choose_images(images, per_identity=2, seed=1).tolist()
    assert set(choose_any(images, num=7, seed=0).tolist()) < set(choose_any(images, num=9, seed=0).tolist())


@pytest.fixture
def damaged(drawn: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(drawn, folder)
    (folder / "3" / "1.png").write_bytes(b"no image")
    whole = (folder / "5" / "2.png").read_bytes()
    (folder / "5" / "2.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_unusable_images_are_counted_and_named(damaged: Path, network: Path, tmp_path: Path) -> None:
    document = measure(damaged, network, tmp_path / "out", max_unreadable=2)
    assert [one["key"] for one in document["unusable"]] == ["3/1.png", "5/2.png"]
    assert all(one["reason"] for one in document["unusable"])
    assert document["measures"]["num_images"] == IDENTITIES * IMAGES - 2
    assert "Unusable images: 2" in (tmp_path / "out" / "quality.md").read_text()


def test_too_many_unusable_images_stop_the_run(damaged: Path, network: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 40 images .*3/1\.png"):
        measure(damaged, network, tmp_path / "out", max_unreadable=1)
    assert not (tmp_path / "out").exists()


def test_an_identity_without_a_usable_image_is_none(drawn: Path, network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "people"
    shutil.copytree(drawn, folder)
    for image in (folder / "4").iterdir():
        image.write_bytes(b"")
    (folder / "lone").mkdir()
    shutil.copy(folder / "0" / "0.png", folder / "lone")
    document = measure(folder, network, tmp_path / "out")
    assert document["measures"]["num_identities"] == IDENTITIES
    assert document["counts"]["single_image_identities"] == 1
    assert any(text.startswith("1 identities have one image") for text in document["warnings"])
    names = {pair[side] for pair in document["most_alike"] for side in ("first", "second")}
    assert "4" not in names


@pytest.fixture
def generated(network: Path, tmp_path: Path) -> Path:
    """A dataset of ours that names the thumbnail network as its generator's recogniser."""
    document = make_document()
    entry = {"file": "antelopev2/arcface.onnx", "sha256": sha256_file(network), "licence": "MIT"}
    document["models"]["recogniser"] = entry
    return make_dataset(tmp_path / "generated", document)


def test_the_generators_own_recogniser_is_refused(generated: Path, network: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--allow-same"):
        measure(generated, network, tmp_path / "out")
    document = measure(generated, network, tmp_path / "out", allow_same=True)
    assert document["recogniser"]["generator"] == "same"
    assert "how well the generator" in document["warnings"][0]
    assert "how well the generator" in (tmp_path / "out" / "quality.md").read_text()


def test_another_recogniser_is_welcome(generated: Path, network: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    graph = onnx.load(network)
    graph.doc_string = "another file"
    onnx.save(graph, other)
    document = measure(generated, other, tmp_path / "out")
    assert document["recogniser"]["generator"] == "other"
    assert not [text for text in document["warnings"] if "recogniser" in text]


def test_a_network_of_train_measures_too(drawn: Path, tmp_path: Path) -> None:
    config = BackboneConfig(name="ir_18", width=0.125, embedding_dim=16)
    (tmp_path / "run").mkdir()
    save_network(tmp_path / "run", build_backbone(config, seed=0), config, about={})
    document = measure(drawn, tmp_path / "run", tmp_path / "out", identities=3)
    assert document["measures"]["num_images"] == 3 * IMAGES
    assert document["recogniser"]["sha256"] == sha256_file(tmp_path / "run" / "model.safetensors")


def test_an_unknown_origin_is_said(drawn: Path, network: Path, tmp_path: Path) -> None:
    document = measure(drawn, network, tmp_path / "out")
    assert document["recogniser"]["generator"] == "unknown"
    assert "does not say which recogniser" in document["warnings"][0]


def test_the_report_lies_beside_the_dataset_and_never_in_it(
    drawn: Path, network: Path, tmp_path: Path
) -> None:
    people = tmp_path / "people"
    shutil.copytree(drawn, people)
    run_quality(QualityConfig(dataset=people, recogniser=network, device="cpu"))
    assert sorted(file.name for file in (tmp_path / "people-quality").iterdir()) == [
        "quality.json", "quality.md",
    ]  # fmt: skip
    with pytest.raises(UserError, match="lies in the dataset"):
        measure(people, network, people / "quality")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        measure(people, network, tmp_path / "file")


def test_settings_that_make_no_sense() -> None:
    for settings, message in (
        ({}, "give the dataset"),
        ({"dataset": Path("d")}, "recogniser is missing"),
        ({"dataset": Path("d"), "calibrate": ()}, "not both"),
        ({"dataset": Path("d"), "recogniser": Path("r"), "accuracies": Path("a")}, "goes with --calibrate"),
        ({"dataset": Path("d"), "recogniser": Path("r"), "inception": Path("i")}, "goes with --real"),
        ({"dataset": Path("d"), "recogniser": Path("r"), "radius": 1.5}, "radius = 1.5"),
    ):
        with pytest.raises(UserError, match=message):
            QualityConfig(**settings)


def test_settings_cost_no_import() -> None:
    code = (
        "import sys, d2r_fast.recognition.quality.config; "
        "print([name for name in ('torch', 'numpy', 'scipy', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
    with pytest.raises(UserError, match="pip install torch-fidelity"):
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


def test_torch_fidelity_that_fails_is_a_failed_run(
    drawn: Path, network: Path, inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> dict[str, float]:
        raise RuntimeError("state_dict does not fit\nmore")

    fake_fidelity(monkeypatch, fail)
    with pytest.raises(RunError, match=r"torch-fidelity failed: state_dict does not fit$"):
        measure(drawn, network, tmp_path / "out", real=drawn, inception=inception)
