"""A trained network as the pipeline's recogniser: its ONNX and sidecar, read by what reads any recogniser."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.recogniser import Normalisation, Recogniser
from d2r_fast.export.arcface import open_arcface
from d2r_fast.recognition import export_onnx
from d2r_fast.recognition.embedder import TorchEmbedder
from d2r_fast.recognition.export_onnx import export_recogniser
from d2r_fast.recognition.network_file import LoadedNetwork, save_network

from . import mininetworks
from .mininetworks import LAYOUTS, copy_exported, crops, mini_config, mini_network

CROPS = crops(5)


def loaded(layout: str = "insightface", **values: object) -> LoadedNetwork:
    return LoadedNetwork(mini_network(layout, **values), mini_config(layout, **values), "test")


def embeddings(network: LoadedNetwork) -> np.ndarray:
    return TorchEmbedder(network, device="cpu", batch_size=5)(CROPS)


def distance(given: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="module", params=LAYOUTS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, mininetworks.exported(request.param, tmp_path_factory.getbasetemp())


def test_the_pipelines_recogniser_gives_torchs_embeddings(exported: tuple[str, Path]) -> None:
    layout, out = exported
    assert distance(Recogniser.load(out)(CROPS), embeddings(loaded(layout))) <= 1e-5


def test_sidecar_says_the_colours(exported: tuple[str, Path]) -> None:
    layout, out = exported
    channels = {"insightface": "rgb", "adaface": "bgr"}[layout]
    assert json.loads(out.with_suffix(".json").read_text()) == {
        "channels": channels, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    assert Recogniser.load(out).normalisation == Normalisation(channels, (0.5,) * 3, (0.5,) * 3)
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.json", "model.onnx"]


def test_without_its_sidecar_adafaces_would_be_wrong(exported: tuple[str, Path], tmp_path: Path) -> None:
    layout, out = exported
    alone = Path(shutil.copy(out, tmp_path / "alone.onnx"))
    difference = distance(Recogniser.load(alone)(CROPS), embeddings(loaded(layout)))
    assert (difference > 0.05) == (layout == "adaface")


def test_every_backend_can_take_it(exported: tuple[str, Path]) -> None:
    """What build-engines starts from: the graph run by torch, operator by operator."""
    layout, out = exported
    network = open_arcface(Path("no model folder"), recogniser=out)
    pixels = Recogniser.load(out).normalisation(CROPS)
    with torch.no_grad():
        given = network.load()(torch.from_numpy(pixels)).numpy()
    assert distance(given, embeddings(loaded(layout))) <= 1e-5


def test_graph_is_a_recogniser_as_insightface_knows_it(exported: tuple[str, Path]) -> None:
    model = onnx.load(exported[1])
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [18]
    (taken,), (given,) = model.graph.input, model.graph.output
    sides = taken.type.tensor_type.shape.dim
    assert (taken.name, given.name) == ("data", "embedding")
    assert sides[0].dim_param
    assert [side.dim_value for side in sides][1:] == [3, 112, 112]
    assert given.type.tensor_type.shape.dim[1].dim_value == 16
    assert "Dropout" not in {node.op_type for node in model.graph.node}


def test_from_a_networks_folder_and_in_place_of_an_older_one(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = copy_exported("insightface", tmp_path_factory.getbasetemp(), tmp_path / "model.onnx")
    save_network(tmp_path, mini_network("adaface"), mini_config("adaface"), about={})
    export_recogniser(tmp_path, out)
    assert distance(Recogniser.load(out)(CROPS), embeddings(loaded("adaface"))) <= 1e-5
    names = ["config.json", "model.json", "model.onnx", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def replace_exporter(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    """Has the exporter write this graph, whatever network it is given."""
    exporter = lambda _, path: shutil.copy(graph, path)  # noqa: E731
    monkeypatch.setattr(export_onnx.recogniser, "export_recogniser", exporter)


def test_a_graph_that_disagrees_is_not_written(
    exported: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other,) = set(LAYOUTS) - {exported[0]}
    replace_exporter(monkeypatch, exported[1])
    out = tmp_path / "model.onnx"
    out.write_text("older")
    with pytest.raises(
        RunError, match=r"model\.onnx gives embeddings that differ from torch's by .*nothing is"
    ):
        export_recogniser(loaded(other), out)
    assert out.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_check_sees_swapped_colours(
    exported: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, graph = exported
    replace_exporter(monkeypatch, graph)
    swapped = {"insightface": "bgr", "adaface": "rgb"}[layout]
    described = {"channels": swapped, "mean": [0.5] * 3, "std": [0.5] * 3}
    with monkeypatch.context() as patch:
        patch.setattr(export_onnx, "_describe", lambda _: described)
        with pytest.raises(RunError, match="differ from torch's"):
            export_recogniser(loaded(layout), tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())
    export_recogniser(loaded(layout), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pt", "give a name that ends in .onnx"),
        ("config.onnx", "its sidecar would replace .*config.json, which is none"),
        ("none/model.onnx", "lies in no folder"),
        ("", "is a folder"),
    ],
)
def test_no_place_for_it(name: str, message: str, tmp_path: Path) -> None:
    save_network(tmp_path, mini_network(), mini_config(), about={})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message):
        export_recogniser(tmp_path, tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_full_size(layout: str, tmp_path: Path) -> None:
    network = loaded(layout, name="ir_100", width=1.0, embedding_dim=512)
    export_recogniser(network, tmp_path / "r100.onnx")
    assert distance(Recogniser.load(tmp_path / "r100.onnx")(CROPS), embeddings(network)) <= 1e-5
