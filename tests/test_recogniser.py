"""Recognisers: any ONNX of the right shape, normalised by its sidecar or insightface's rule."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.recogniser import Recogniser

CROPS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def write_graph(
    path: Path, *, batch: int | str = "N", names: tuple[str, ...] = ("ident",), channels: int = 3
) -> Path:
    """A graph whose embedding is its input, flattened: it shows what the network was fed."""
    nodes, last = [], "data"
    for name in names:
        nodes.append(helper.make_node("Identity", [last], [name + "_out"], name=name))
        last = name + "_out"
    nodes.append(helper.make_node("Flatten", [last], ["embedding"], name="flatten"))
    graph = helper.make_graph(
        nodes, "probe",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, channels, 8, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, channels * 64])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def fed(path: Path, batch_size: int = 2) -> np.ndarray:
    return Recogniser.load(path, batch_size=batch_size)(CROPS).reshape(5, 3, 8, 8).transpose(0, 2, 3, 1)


def test_default_is_insightface(tmp_path: Path) -> None:
    found = fed(write_graph(tmp_path / "r.onnx"))
    np.testing.assert_allclose(found, (CROPS.astype(float) - 127.5) / 127.5, atol=1e-6)


def test_a_graph_that_normalises_itself_gets_pixels(tmp_path: Path) -> None:
    found = fed(write_graph(tmp_path / "r.onnx", names=("Sub_0", "Mul_0")))
    np.testing.assert_allclose(found, CROPS.astype(float), atol=1e-4)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_sidecar_decides(tmp_path: Path, channels: str) -> None:
    path = write_graph(tmp_path / "r.onnx")
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    path.with_suffix(".json").write_text(json.dumps({"channels": channels, "mean": mean, "std": std}))
    pixels = CROPS if channels == "rgb" else CROPS[..., ::-1]
    np.testing.assert_allclose(fed(path), (pixels / 255 - mean) / std, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_a_fixed_batch_is_kept_and_the_last_one_filled(tmp_path: Path, batch: int | str) -> None:
    path = write_graph(tmp_path / "r.onnx", batch=batch)
    recogniser = Recogniser.load(path, batch_size=4)
    assert recogniser.embedding_dim == 192
    assert recogniser.size == (8, 8)
    np.testing.assert_allclose(recogniser(CROPS)[4], Recogniser.load(path)(CROPS[4:])[0])


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"channels": "xyz", "mean": [0, 0, 0], "std": [1, 1, 1]}', '{"channels": "rgb", "mean": [0]}',
             '{"channels": "rgb", "mean": [0, 0, 0], "std": [0, 1, 1]}'],
)  # fmt: skip
def test_unusable_sidecar_is_refused(tmp_path: Path, text: str) -> None:
    path = write_graph(tmp_path / "r.onnx")
    path.with_suffix(".json").write_text(text)
    with pytest.raises(UserError, match=r"r\.json: .*wanted is") as caught:
        Recogniser.load(path)
    assert "\n" not in str(caught.value)


def test_other_graphs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a recogniser"):
        Recogniser.load(write_graph(tmp_path / "r.onnx", channels=1))


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "r.onnx")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="not a usable ONNX graph") as caught:
        Recogniser.load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is missing"):
        Recogniser.load(tmp_path / "none.onnx")


def test_a_provider_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--recogniser-device cpu"):
        Recogniser.load(write_graph(tmp_path / "r.onnx"), device="cuda")
