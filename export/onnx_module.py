"""An ONNX graph as a torch module, for the operators that recognisers are made of.

A file from elsewhere then runs in every backend that starts from torch. Operators follow their ONNX
definitions (opset 7 and later, which agree on what is used here); weights keep float32 and can be moved and cast
as any module's.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from onnxscript import ir
from torch import Tensor, fx, nn

from d2r_fast.engine.errors import UserError


def to_torch(model: ir.Model, *, name: str) -> nn.Module:
    """The graph (simplified, without subgraphs) as a module that takes its inputs and gives its outputs in order.

    Raises:
        UserError: an operator, or a use of one, that is not among those; `name` is the file's.
    """
    root, graph = nn.Module(), fx.Graph()
    values: dict[ir.Value, fx.Node] = {
        value: graph.placeholder(str(value.name)) for value in model.graph.inputs
    }

    def constant(value: ir.Value) -> fx.Node:
        target = f"weight_{len(values)}"
        assert value.const_value is not None
        tensor = torch.from_numpy(value.const_value.numpy().copy())
        if tensor.is_floating_point():
            root.register_parameter(target, nn.Parameter(tensor, requires_grad=False))
        else:
            root.register_buffer(target, tensor)
        return graph.get_attr(target)

    for node in model.graph:
        attributes = {key: attribute.value for key, attribute in node.attributes.items()}
        fault = _fault(node, attributes)
        if fault:
            raise UserError(
                f"{name} has {fault}, which torch is not taught here: choose --backend onnxruntime"
            )
        for value in node.inputs:
            if value is not None and value not in values and not _is_shape(node, value):
                values[value] = constant(value)
        arguments = tuple(
            None if v is None else _shape(v) if _is_shape(node, v) else values[v] for v in node.inputs
        )
        values[node.outputs[0]] = graph.call_function(OPERATORS[node.op_type], arguments, attributes)
    results = tuple(values[value] for value in model.graph.outputs)
    graph.output(results[0] if len(results) == 1 else results)
    return fx.GraphModule(root, graph)


def _is_shape(node: ir.Node, value: ir.Value) -> bool:
    return node.op_type == "Reshape" and value is node.inputs[1]


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(value.const_value.numpy().tolist())


def _fault(node: ir.Node, attributes: dict[str, Any]) -> str | None:
    """What of a node cannot be run, if anything."""
    if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
        return f"the operator {node.op_type}"
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or attributes.get("ceil_mode", 0):
        return f"{node.op_type} with auto_pad or ceil_mode"
    if node.op_type == "Reshape" and (node.inputs[1] is None or node.inputs[1].const_value is None):
        return "a Reshape to a computed shape"
    return None


def _pad(x: Tensor, pads: list[int], fill: float = 0.0) -> Tensor:
    """ONNX's (top, left, bottom, right)."""
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=fill) if any(pads) else x


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **given: Any) -> Tensor:
    pads = given.get("pads", [0, 0, 0, 0])
    symmetric = pads[:2] == pads[2:]
    x = x if symmetric else _pad(x, pads)
    return F.conv2d(
        x, weight, bias, given.get("strides", 1), pads[:2] if symmetric else 0, given.get("dilations", 1),
        given.get("group", 1),
    )  # fmt: skip


def _max_pool(x: Tensor, **given: Any) -> Tensor:
    x = _pad(x, given.get("pads", [0, 0, 0, 0]), -torch.inf)
    return F.max_pool2d(x, given["kernel_shape"], given.get("strides", 1), 0, given.get("dilations", 1))


def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, **given: Any
) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=given.get("epsilon", 1e-5))


def _gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **given: Any) -> Tensor:
    product: Tensor = (a.mT if given.get("transA") else a) @ (b.mT if given.get("transB") else b)
    product = given.get("alpha", 1.0) * product
    return product if c is None else product + c * given.get("beta", 1.0)


def _reshape(x: Tensor, shape: tuple[int, ...], **given: Any) -> Tensor:
    copied = shape if given.get("allowzero") else [side or x.shape[axis] for axis, side in enumerate(shape)]
    return x.reshape(tuple(copied))


def _flatten(x: Tensor, **given: Any) -> Tensor:
    axis = given.get("axis", 1)
    rows = 1
    for side in x.shape[:axis]:
        rows *= side
    return x.reshape(rows, -1)


def _leaky_relu(x: Tensor, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return F.prelu(x, slope.flatten())


def _global_average_pool(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Div": torch.div,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "LeakyRelu": _leaky_relu,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "Mul": torch.mul,
    "PRelu": _prelu,
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Sigmoid": torch.sigmoid,
    "Sub": torch.sub,
}
