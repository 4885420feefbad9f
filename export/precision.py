"""Half precision inside an ONNX graph, float32 at its inputs and outputs.

TensorRT 11 and TensorRT-RTX are strongly typed: they compute in the types that the graph says. So the types are
decided here, by the rules of autocast: what multiplies matrices takes its operands in half precision, and what
follows stays there until it meets a float32 activation. Norms and Softmax take and give half precision; the
operators' definitions and the runtimes compute inside in float32. What leads to the first matrix (a timestep's
sines, the normalisation of pixels) stays float32, and so do the last layer and what follows it.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import onnx_ir.passes.common as passes
from onnxscript import ir
from onnxscript.version_converter import convert_version

from d2r_fast.engine.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
TYPES = {"bf16": ir.DataType.BFLOAT16, "fp16": ir.DataType.FLOAT16}
FLOAT = ir.DataType.FLOAT
MATRIX = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FLOAT_INPUTS = {"Resize": (1, 2)}
"""Operator -> inputs that ONNX wants in float32 whatever the others are."""
BF16_OPSET = 22
"""The first in which convolutions, pools and instance norms may be bfloat16."""


def lower(model: ir.Model, precision: Literal["bf16", "fp16"], *, name: str) -> ir.Model:
    """The graph computing in `precision`; `model` is used up.

    Args:
        model: a float32 graph without subgraphs.
        precision: bf16 or fp16.
        name: of the network, for errors.

    Raises:
        UserError: a weight is too large for float16, or an operator is not ONNX's own.
    """
    _infer_types(model, name)
    _tame_batch_norms(model.graph)
    _Lowering(model.graph, TYPES[precision], name).run()
    passes.RemoveUnusedNodesPass()(model)
    if precision == "bf16":
        convert_version(model, BF16_OPSET)
    return model


def _infer_types(model: ir.Model, name: str) -> None:
    passes.ShapeInferencePass()(model)  # which says nothing where it fails
    unknown = [value.name for node in model.graph for value in node.outputs if value.dtype is None]
    if unknown:
        raise UserError(
            f"{name}: ONNX cannot tell the type of {unknown[0]}, so the network cannot be lowered: choose "
            "--precision fp32"
        )


class _Lowering:
    def __init__(self, graph: ir.Graph, dtype: ir.DataType, name: str) -> None:
        self._graph, self._half, self._name = graph, dtype, name
        self._last = set(_last_layers(graph))
        self._given = {*graph.inputs, *graph.initializers.values()}
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        for node in list(self._graph):
            assert not any(
                attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()
            ), node
            floats = [
                (i, v) for i, v in enumerate(node.inputs) if v is not None and v.dtype in (FLOAT, self._half)
            ]
            dtype = self._half if self._is_half(node, [value for _, value in floats]) else FLOAT
            for index, value in floats:
                if index not in FLOAT_INPUTS.get(node.op_type, ()):
                    node.replace_input_with(index, self._as(value, dtype, node))
            for output in node.outputs:
                if output.dtype == FLOAT:
                    output.type = ir.TensorType(dtype)
        assert all(output.dtype != self._half for output in self._graph.outputs), (
            "the last layer stays float32"
        )

    def _is_half(self, node: ir.Node, floats: Iterable[ir.Value]) -> bool:
        if node in self._last or node.op_type == "Cast":
            return False
        activations = [value for value in floats if value not in self._given]
        return node.op_type in MATRIX or (
            bool(activations) and all(value.dtype == self._half for value in activations)
        )

    def _as(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        """The value in this type: itself, a converted weight, or the one Cast that all its users share."""
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self._casts:
            self._casts[value, dtype] = (
                self._cast(value, dtype, user) if value.const_value is None else self._convert(value, dtype)
            )
        return self._casts[value, dtype]

    def _cast(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        name = f"{value.name}_{dtype.name.lower()}"
        cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"cast_{name}")
        (output,) = cast.outputs
        output.name, output.type, output.shape = name, ir.TensorType(dtype), value.shape
        self._graph.insert_before(user, cast)
        return output

    def _convert(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        tensor = value.const_value
        assert tensor is not None
        name = f"{value.name}_{dtype.name.lower()}"
        peak = float(np.abs(tensor.numpy()).max(initial=0.0))
        most = float(dtype.max)
        if not peak <= most:
            raise UserError(
                f"{self._name}: weight {value.name} holds {peak:.3g}, float16 ends at {most:.5g}: choose "
                "--precision bf16 or fp32"
            )
        half = ir.LazyTensor(
            lambda: ir.tensor(tensor.numpy().astype(dtype.numpy())),
            dtype=dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
        converted = ir.Value(
            name=name, type=ir.TensorType(dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=half
        )
        self._graph.register_initializer(converted)
        return converted


def _last_layers(graph: ir.Graph) -> Iterator[ir.Node]:
    """For each output the matrix product that it comes from by itself, and the nodes between."""
    for output in graph.outputs:
        node = output.producer()
        while node is not None:
            yield node
            activations = [value for value in node.inputs if value is not None and value.const_value is None]
            if node.op_type in MATRIX or len(activations) != 1:
                break
            node = activations[0].producer()


def _tame_batch_norms(graph: ir.Graph) -> None:
    """Rewrites batch norms in place as ones of mean 0 and variance 1, whose numbers half precision can hold.

    Their own variances may be far below float16's smallest number or above its largest.
    """
    for node in graph:
        if node.op_type != "BatchNormalization" or any(
            v is None or v.const_value is None for v in node.inputs[1:]
        ):
            continue
        scale, bias, mean, variance = (v.const_value.numpy().astype(np.float64) for v in node.inputs[1:])  # type: ignore[union-attr]
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        scale = scale / np.sqrt(variance + epsilon)
        bias = bias - mean * scale
        for index, numbers in enumerate((scale, bias, 0 * mean, 0 * variance + (1 - epsilon)), 1):
            name = f"{node.outputs[0].name}_norm_{index}"
            graph.register_initializer(
                ir.val(name, const_value=ir.tensor(numbers.astype(np.float32), name=name))
            )
            node.replace_input_with(index, graph.initializers[name])
