"""The quality command: on images, on spoilt copies of them, and in what folder."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.network_file import save_network
from d2r_fast.recognition.quality.catalogue import CATALOGUE
from d2r_fast.recognition.quality.config import QualityConfig
from d2r_fast.recognition.quality.crops import choose_any, choose_images
from d2r_fast.recognition.quality.quality import run_quality
from d2r_fast.recognition.training.training_set import open_training_set

from .fakedata import make_dataset, make_document
from .fakequality import IDENTITIES, IMAGES, draw_people, measure, write_thumbnail
from .spoil import double_identities, remove_variety, shuffle_labels


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thumbnail(tmp_path_factory.mktemp("network") / "thumbnail.onnx")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_people(tmp_path_factory.mktemp("drawn") / "people")


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
                "intrinsic_quality": -1, "neighbour_consistency": -1, "consistency_with_others": -1,
                "genuine_mean": -1, "fdr": -1, "d_prime": -1, "eer": +1, "diversity_between_images": +1,
                "effective_rank": 0, "vendi": 0,
            },
            double_identities: {
                "intrinsic_quality": -1, "uniqueness": -1, "duplicate_pairs": +1, "neighbour_consistency": -1,
                "impostor_mean": +1, "eer": +1, "fdr": -1, "d_prime": -1, "identity_consistency": 0,
                "diversity_between_images": 0, "effective_rank": 0, "normalised_effective_rank": -1,
            },
            # Thumbnails tell drawn people apart in half of the cases; without variety, in all: see the catalogue.
            remove_variety: {
                "intrinsic_quality": +1, "diversity_to_centre": -1, "diversity_between_images": -1,
                "effective_rank": -1, "effective_rank_within": -1, "vendi": -1, "genuine_mean": +1,
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
        ".lock", "quality.json", "quality.md",
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
