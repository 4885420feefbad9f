"""Recognisers from elsewhere: run by torch, made uniform, exported, or refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.export.networks import export_network, open_network
from d2r_fast.export.onnx_module import OPERATORS, to_torch

from .exportmodels import relative_l2, run_onnx

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    batch: int | str = "N",
    taken: tuple[int, ...] = (3, 16, 16),
    given: tuple[int | str, ...] = ("D",),
    opset: int = 11,
) -> Path:
    """A graph x -> y as older exporters wrote it, weights among the inputs."""
    sides = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, w.shape) for name, w in weights.items()
    }
    sides = {name: side for name, side in sides.items() if weights[name].dtype == np.float32}
    graph = helper.make_graph(
        nodes, "older",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, *taken)), *sides.values()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (batch, *given))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(
        helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
            ir_version=4,
        ),
        path,
    )
    return path


CASES: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = {
    "Add": ({}, {"w": array(3, 1, 1)}),
    "BatchNormalization": (
        {"epsilon": 1e-3},
        {"w": array(3), "b": array(3), "m": array(3), "v": np.abs(array(3)) + 0.1},
    ),
    "Conv": (
        {"pads": [1, 0, 2, 1], "strides": [2, 1], "group": 3, "dilations": [1, 2]},
        {"w": array(6, 1, 3, 3), "b": array(6)},
    ),
    "Div": ({}, {"w": np.abs(array(3, 1, 1)) + 0.5}),
    "Flatten": ({"axis": 2}, {}),
    "Gemm": ({"transB": 1, "alpha": 0.5, "beta": 2.0}, {"w": array(4, 5), "b": array(4)}),
    "GlobalAveragePool": ({}, {}),
    "LeakyRelu": ({"alpha": 0.2}, {}),
    "MatMul": ({}, {"w": array(16, 5)}),
    "MaxPool": ({"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}, {}),
    "Mul": ({}, {"w": array(3, 1, 1)}),
    "PRelu": ({}, {"w": array(3, 1, 1)}),
    "Relu": ({}, {}),
    "Reshape": ({}, {"w": np.array([0, 4, -1], np.int64)}),
    "Sigmoid": ({}, {}),
    "Sub": ({}, {"w": array(3, 1, 1)}),
}


def test_every_operator_has_a_case() -> None:
    assert CASES.keys() == OPERATORS.keys()


@pytest.mark.parametrize("operator", CASES)
def test_operators_are_onnxs(operator: str, tmp_path: Path) -> None:
    attributes, weights = CASES[operator]
    taken = (5,) if operator == "Gemm" else (3, 16, 16)
    node = helper.make_node(operator, ["x", *weights], ["y"], **attributes)
    ranks = {"Flatten": 1, "Gemm": 1, "Reshape": 2}
    given = tuple(f"d{axis}" for axis in range(ranks.get(operator, 3)))
    path = write(tmp_path / "one.onnx", [node], weights, taken=taken, given=given)
    x = torch.from_numpy(array(2, *taken))
    (wanted,) = run_onnx(path, {"x": x}).values()
    model = ir.load(path)
    model.graph.inputs[1:] = []
    module = to_torch(model, name="one")
    assert relative_l2(module(x), wanted) < 1e-6
    assert len(list(module.parameters())) == len([w for w in weights.values() if w.dtype == np.float32])


def recogniser_nodes(*tail: onnx.NodeProto, last: str) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Two convolutions with norms and slopes, then `tail`, then a matrix product of `last` with a norm."""
    weights = {
        "w1": array(4, 3, 3, 3) / 5, "w2": array(4, 4, 3, 3) / 6, "slope": array(4, 1, 1),
        "s1": array(4), "b1": array(4), "m1": array(4), "v1": np.abs(array(4)) + 0.2,
        "fc": array(8, 256) / 16, "fb": array(8),
        "s2": array(8), "b2": array(8), "m2": array(8), "v2": np.abs(array(8)) + 0.2,
    }  # fmt: skip
    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], **pads),
        helper.make_node("BatchNormalization", ["c1", "s1", "b1", "m1", "v1"], ["n1"]),
        helper.make_node("PRelu", ["n1", "slope"], ["p1"]),
        helper.make_node("Dropout", ["p1"], ["d1"], ratio=0.4),
        helper.make_node("Conv", ["d1", "w2"], ["c2"], strides=[2, 2], **pads),
        *tail,
        helper.make_node("Gemm", [last, "fc", "fb"], ["g"], transB=1),
        helper.make_node("BatchNormalization", ["g", "s2", "b2", "m2", "v2"], ["y"]),
    ]
    return nodes, weights


FLATTEN = (helper.make_node("Flatten", ["c2"], ["f"]),)
VIEW = (  # x.view(x.size(0), -1) as torch's older exporter wrote it
    helper.make_node("Shape", ["c2"], ["shape"]),
    helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(0, np.int64))),
    helper.make_node("Gather", ["shape", "zero"], ["size"]),
    helper.make_node("Unsqueeze", ["size"], ["sizes"], axes=[0]),
    helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([-1], np.int64))),
    helper.make_node("Concat", ["sizes", "rest"], ["wanted"], axis=0),
    helper.make_node("Reshape", ["c2", "wanted"], ["f"]),
)
FIXED = (
    helper.make_node("Constant", [], ["wanted"], value=numpy_helper.from_array(np.array([1, 256], np.int64))),
    helper.make_node("Reshape", ["c2", "wanted"], ["f"]),
)


@pytest.mark.parametrize("batch", ["N", 1, 2])
@pytest.mark.parametrize("tail", [FLATTEN, VIEW])
def test_a_recogniser_from_elsewhere(
    tail: tuple[onnx.NodeProto, ...], batch: int | str, tmp_path: Path
) -> None:
    file = write(tmp_path / "own.onnx", *recogniser_nodes(*tail, last="f"), batch=batch, given=(8,))
    network = open_network("arcface", tmp_path, recogniser=file)
    assert [port.shape for port in (*network.inputs, *network.outputs)] == [
        ("batch", 3, 16, 16),
        ("batch", 8),
    ]
    assert next(iter(network.source)) == "own.onnx"
    inputs = network.random_inputs(3, seed=0)
    assert -1 <= inputs["crops"].min() < -0.2 < 0.2 < inputs["crops"].max() <= 1
    wanted = reference(file, inputs["crops"], batch)
    assert relative_l2(network.reference(inputs)["embedding"], wanted) < 1e-6
    assert relative_l2(network.module(inputs["crops"]), wanted) < 1e-5
    for precision, limit in (("fp32", 1e-5), ("fp16", 5e-3)):
        (path,) = export_network(network, tmp_path / "out.onnx", precision=precision)
        assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}
        assert relative_l2(run_onnx(path, inputs)["embedding"], wanted) < limit


def reference(file: Path, crops: Tensor, batch: int | str) -> Tensor:
    if isinstance(batch, str):
        return run_onnx(file, {"x": crops})["y"]
    rows = [
        run_onnx(file, {"x": crop[None].expand(batch, -1, -1, -1).contiguous()})["y"][:1] for crop in crops
    ]
    return torch.cat(rows)


def test_a_batch_that_cannot_be_freed_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "own.onnx", *recogniser_nodes(*FIXED, last="f"), batch=1, given=(8,))
    network = open_network("arcface", tmp_path, recogniser=file)
    with pytest.raises(UserError, match=r"own.onnx is written for a batch of 1 alone: export it again"):
        export_network(network, tmp_path / "out.onnx", precision="fp32")


def test_what_torch_cannot_run_is_refused_and_still_exported(tmp_path: Path) -> None:
    tail = (helper.make_node("Softsign", ["c2"], ["s"]), helper.make_node("Flatten", ["s"], ["f"]))
    file = write(tmp_path / "own.onnx", *recogniser_nodes(*tail, last="f"), given=(8,))
    network = open_network("arcface", tmp_path, recogniser=file)
    with pytest.raises(UserError, match=r"own.onnx has the operator Softsign, which torch is not taught"):
        network.load()
    inputs = network.random_inputs(2, seed=0)
    (path,) = export_network(network, tmp_path / "out.onnx", precision="fp16")
    assert relative_l2(run_onnx(path, inputs)["embedding"], network.reference(inputs)["embedding"]) < 5e-3


def test_an_operator_of_onnxruntimes_own_is_for_float32(tmp_path: Path) -> None:
    tail = (
        helper.make_node("Gelu", ["c2"], ["s"], domain="com.microsoft"),
        helper.make_node("Flatten", ["s"], ["f"]),
    )
    file = write(tmp_path / "own.onnx", *recogniser_nodes(*tail, last="f"), given=(8,))
    network = open_network("arcface", tmp_path, recogniser=file)
    inputs = network.random_inputs(2, seed=0)
    (path,) = export_network(network, tmp_path / "out.onnx", precision="fp32")
    assert relative_l2(run_onnx(path, inputs)["embedding"], network.reference(inputs)["embedding"]) < 1e-5
    with pytest.raises(
        UserError, match="arcface: ONNX cannot tell the type of s, so the network cannot be lowered"
    ):
        export_network(network, tmp_path / "out.onnx", precision="fp16")


def test_a_file_that_is_no_recogniser_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.onnx").write_bytes(b"none")
    with pytest.raises(UserError, match=r"none.onnx is not a usable ONNX graph"):
        open_network("arcface", tmp_path, recogniser=tmp_path / "none.onnx")
