"""The quality command on images, networks and folders that are not as they should be."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.folder_lock import held
from d2r_fast.recognition.quality.config import QualityConfig
from d2r_fast.recognition.quality.measure import Scale
from d2r_fast.recognition.quality.measure import measure as measure_rows
from d2r_fast.recognition.quality.quality import run_quality

from .fakebench import keep_weights_beside, write_onnx
from .fakequality import (
    IDENTITIES,
    IMAGES,
    POOL,
    damage_two,
    draw_people,
    measure,
    write_graph,
    write_thumbnail,
)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thumbnail(tmp_path_factory.mktemp("network") / "thumbnail.onnx")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_people(tmp_path_factory.mktemp("drawn") / "people")


@pytest.fixture
def damaged(drawn: Path, tmp_path: Path) -> Path:
    return damage_two(drawn, tmp_path / "damaged")


def test_unusable_images_are_counted_and_named(damaged: Path, network: Path, tmp_path: Path) -> None:
    document = measure(damaged, network, tmp_path / "out", max_unreadable=2)
    assert [one["key"] for one in document["unusable"]] == ["3/1.png", "5/2.png"]
    assert all(one["reason"] for one in document["unusable"])
    assert document["measures"]["num_images"] == IDENTITIES * IMAGES - 2
    assert "Unusable images: 2" in (tmp_path / "out" / "quality.md").read_text()


def test_too_many_unusable_images_stop_the_run(damaged: Path, network: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 40 images .*3/1\.png"):
        measure(damaged, network, tmp_path / "out", max_unreadable=1)
    assert not (tmp_path / "out" / "quality.json").exists()


@pytest.fixture
def blind(tmp_path: Path) -> Path:
    """Thumbnails, and zero of what is black all over."""
    nodes = [
        POOL,
        helper.make_node("Sub", ["small", "level"], ["over"]),
        helper.make_node("Relu", ["over"], ["bright"]),
        helper.make_node("Flatten", ["bright"], ["embedding"]),
    ]
    return write_graph(tmp_path / "blind.onnx", nodes, {"level": np.array(-0.99, np.float32)}, width=192)


def test_embeddings_of_zero_are_unusable_images(drawn: Path, blind: Path, tmp_path: Path) -> None:
    folder = tmp_path / "people"
    shutil.copytree(drawn, folder)
    for name in ("2/1.png", "6/0.png"):
        Image.new("RGB", (112, 112)).save(folder / name)
    (folder / "3" / "1.png").write_bytes(b"no image")
    document = measure(folder, blind, tmp_path / "out", max_unreadable=3)
    assert [(one["key"], one["reason"]) for one in document["unusable"]] == [
        ("2/1.png", "its embedding is zero"), ("3/1.png", "not a PNG, JPEG, WebP, BMP or TIFF image"),
        ("6/0.png", "its embedding is zero"),
    ]  # fmt: skip
    assert document["measures"]["num_images"] == IDENTITIES * IMAGES - 3
    with pytest.raises(UserError, match=r"3 of 40 images cannot be used and 2 may be left out"):
        measure(folder, blind, tmp_path / "less", max_unreadable=2, batch_size=64)


def test_a_network_that_sees_nothing_is_said(drawn: Path, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Mul", ["mean", "nothing"], ["none"]),
        helper.make_node("Flatten", ["none"], ["embedding"]),
    ]
    zeros = write_graph(tmp_path / "zeros.onnx", nodes, {"nothing": np.zeros(1, np.float32)}, width=3)
    with pytest.raises(UserError, match=r"40 of 40 images cannot be used .*0/0\.png: its embedding is zero"):
        measure(drawn, zeros, tmp_path / "out")


def test_an_identity_whose_images_cancel_out_is_named() -> None:
    rows = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    rows[3] = -rows[2]
    labels = np.repeat(np.arange(3), 2)
    with pytest.raises(UserError, match="identity Ann cancel out"):
        measure_rows(rows, labels, Scale(), class_names=("Eve", "Ann", "Bob"))


def test_a_second_run_leaves_results_of_others_alone(drawn: Path, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = measure(drawn, network, out)
    again = measure(drawn, network, out, radius=0.4)
    assert again["settings"]["radius"] == 0.4
    people, other = tmp_path / "people", tmp_path / "other.onnx"
    shutil.copytree(drawn, people)
    shutil.rmtree(people / "5")
    graph = onnx.load(network)
    graph.doc_string = "another file"
    onnx.save(graph, other)
    for dataset, recogniser, whose in (
        (people, network, r"another dataset \(people\)"),
        (drawn, other, rf"another recogniser \({before['recogniser']['name']}\)"),
    ):
        with pytest.raises(UserError, match=f"holds results of {whose}: give another --out"):
            measure(dataset, recogniser, out)
    assert json.loads((out / "quality.json").read_text()) == again
    (out / "quality.json").write_text("{}")
    with pytest.raises(UserError, match=r"quality\.json is damaged"):
        measure(drawn, network, out)


def test_weights_beside_a_graph_are_part_of_a_recogniser(drawn: Path, tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx")
    keep_weights_beside(tmp_path / "net.onnx")
    before = measure(drawn, tmp_path / "net.onnx", tmp_path / "out")
    beside = tmp_path / "weights.bin"
    beside.write_bytes((-(np.frombuffer(beside.read_bytes(), np.float32) ** 2)).tobytes())
    with pytest.raises(UserError, match="another recogniser"):
        measure(drawn, tmp_path / "net.onnx", tmp_path / "out")
    after = measure(drawn, tmp_path / "net.onnx", tmp_path / "other")
    assert after["recogniser"]["sha256"] != before["recogniser"]["sha256"]


def test_a_folder_is_measured_into_by_one_at_a_time(drawn: Path, network: Path, tmp_path: Path) -> None:
    with held(tmp_path / "out"), pytest.raises(RunError, match="is in use by process"):
        measure(drawn, network, tmp_path / "out")
    measure(drawn, network, tmp_path / "out")


def test_a_dataset_that_is_missing_leaves_no_folder(network: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        run_quality(QualityConfig(dataset=tmp_path / "none", recogniser=network, device="cpu"))
    assert not list(tmp_path.iterdir())


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
