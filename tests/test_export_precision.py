"""What is computed in half precision and what is not, and what half precision costs where every step rounds."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnxscript import ir
from torch import Tensor, nn

from d2r_fast.engine.errors import UserError
from d2r_fast.export.graph import BATCH, trace
from d2r_fast.export.networks import NETWORKS
from d2r_fast.export.onnx_file import write_onnx
from d2r_fast.export.precision import MATRIX, Precision, lower

from .exportmodels import Exports, emulate_half, relative_l2, run_onnx, shared_exports

LIMITS: dict[Precision, float] = {"fp16": 5e-3, "bf16": 3e-2}
TYPES = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def exports(mini_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return shared_exports(mini_models, tmp_path_factory.getbasetemp() / "exports")


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", NETWORKS)
def test_near_float32_where_every_step_rounds(
    exports: Exports, name: str, precision: Precision, tmp_path: Path
) -> None:
    network = exports.network(name)
    inputs = network.random_inputs(2, seed=1)
    emulated = emulate_half(exports.path(name, precision), tmp_path / "emulated.onnx")
    (given,), (wanted,) = run_onnx(emulated, inputs).values(), network.reference(inputs).values()
    error = relative_l2(given, wanted)
    assert LIMITS[precision] / 100 < error <= LIMITS[precision]


def kinds(path: Path) -> tuple[onnx.ModelProto, dict[str, int]]:
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return model, found | {i.name: i.data_type for i in model.graph.initializer}


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", NETWORKS)
def test_matrices_are_half_but_for_the_last(exports: Exports, name: str, precision: Precision) -> None:
    model, kind = kinds(exports.path(name, precision))
    products = [kind[node.input[1]] for node in model.graph.node if node.op_type in MATRIX]
    kept = [] if name == "encoder" else [onnx.TensorProto.FLOAT]  # which ends in a norm of a sum
    assert products == [TYPES[precision]] * (len(products) - len(kept)) + kept


def test_timesteps_and_resize_scales_stay_float32(exports: Exports) -> None:
    model, kind = kinds(exports.path("unet", "fp16"))
    by_type: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        by_type.setdefault(node.op_type, []).append(node)
    assert {kind[node.output[0]] for name in ("Sin", "Cos") for node in by_type[name]} == {
        onnx.TensorProto.FLOAT
    }
    for node in by_type["Resize"]:
        assert kind[node.input[0]] == onnx.TensorProto.FLOAT16
        assert all(
            kind[name] in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64) for name in node.input[1:] if name
        )
    for name in ("InstanceNormalization", "LayerNormalization", "Softmax"):
        assert {kind[node.output[0]] for node in by_type[name]} == {onnx.TensorProto.FLOAT16}


def test_bfloat16_is_in_an_opset_that_has_it(exports: Exports) -> None:
    opsets = {p: onnx.load(exports.path("rnet", p)).opset_import[0].version for p in ("fp32", "fp16", "bf16")}
    assert opsets == {"fp32": 18, "fp16": 18, "bf16": 22}


def graph_of(forward: Callable[[Tensor], Tensor], weight: Tensor) -> ir.Model:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight, requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return forward(x @ self.weight)

    return trace(Network().eval(), {"x": torch.zeros(2, 4)}, outputs=["y"], dynamic_axes={"x": {0: BATCH}})


def test_a_product_of_halves_that_is_the_output_is_float32(tmp_path: Path) -> None:
    weight = torch.eye(4)
    lowered = lower(graph_of(lambda x: x * x.sigmoid(), weight), "fp16", name="tiny")
    write_onnx(lowered, tmp_path / "tiny.onnx")
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    y = run_onnx(tmp_path / "tiny.onnx", {"x": x})["y"]
    assert relative_l2(y, nn.functional.silu(x)) < 2e-3
    model, kind = kinds(tmp_path / "tiny.onnx")
    matrix, sigmoid, *_, product = model.graph.node[1:]
    assert (matrix.op_type, sigmoid.op_type, product.op_type) == ("MatMul", "Sigmoid", "Mul")
    assert kind[matrix.output[0]] == kind[sigmoid.output[0]] == onnx.TensorProto.FLOAT16
    assert (product.output[0], kind["y"]) == ("y", onnx.TensorProto.FLOAT)


def test_a_weight_beyond_float16_is_refused() -> None:
    weight = torch.eye(4)
    weight[1, 2] = 70000.0
    with pytest.raises(UserError, match=r"tiny: weight weight.* holds 7e\+04, float16 ends at 65504"):
        lower(graph_of(lambda x: (x @ x.mT).sin() @ x, weight), "fp16", name="tiny")
    lower(graph_of(lambda x: (x @ x.mT).sin() @ x, weight), "bf16", name="tiny")


def test_batch_norms_of_any_scale_fit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    norm, conv = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
    scales = torch.logspace(-5, 6, 8)
    with torch.no_grad():
        norm.running_var = scales**2
        norm.running_mean = torch.randn(8, generator=generator) * scales
        norm.weight.copy_(torch.rand(8, generator=generator) + 0.5)
    network = nn.Sequential(
        nn.Conv2d(8, 8, 1, groups=8), nn.ReLU(), norm, conv, nn.ReLU(), nn.Conv2d(8, 4, 1)
    ).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.ones(8, 1, 1, 1))
        network[0].bias.zero_()
        norm.running_mean.zero_()
    x = torch.rand(2, 8, 5, 5, generator=generator)
    model = trace(network, {"x": x}, outputs=["y"], dynamic_axes={"x": {0: BATCH}})
    assert "BatchNormalization" in {node.op_type for node in model.graph}
    write_onnx(lower(model, "fp16", name="tiny"), tmp_path / "tiny.onnx")
    with torch.no_grad():
        assert relative_l2(run_onnx(tmp_path / "tiny.onnx", {"x": x})["y"], network(x)) < 5e-3
