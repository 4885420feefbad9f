"""Nodes of an ONNX graph: what they say, and new ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxscript import ir

Array = NDArray[Any]


class Writer:
    """Writes float32 nodes into a graph, whose shapes are all known.

    Args:
        graph: what is written into.

    Attributes:
        at: before which node.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.at: ir.Node | None = None
        self._count = 0

    def op(
        self, kind: str, *inputs: ir.Value, shape: tuple[int, ...] | None = None, **attributes: Any
    ) -> ir.Value:
        if shape is None:
            assert kind == "MatMul"
            shape = (*shape_of(inputs[0])[:-1], shape_of(inputs[1])[-1])
        node = ir.node(kind, inputs, attributes or None, name=self._name(kind))
        (output,) = node.outputs
        output.name, output.shape = f"{node.name}_out", ir.Shape(shape)
        output.type = ir.TensorType(ir.DataType.FLOAT)
        if self.at is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.at, node)
        return output

    def reshape(self, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        size = int(np.prod(shape_of(value)))
        known = int(np.prod([side for side in shape if side != -1]))
        decided = tuple(size // known if side == -1 else side for side in shape)
        return self.op("Reshape", value, self.indices(decided), shape=decided)

    def const(self, array: Array) -> ir.Value:
        return self._initializer(np.ascontiguousarray(array, np.float32))

    def indices(self, numbers: Sequence[int] | Array) -> ir.Value:
        return self._initializer(np.asarray(numbers, np.int64))

    def _initializer(self, array: Array) -> ir.Value:
        name = self._name("constant")
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        value.shape = ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"rows_{kind.lower()}_{self._count}"


def shape_of(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None, value
    return tuple(side if isinstance(side, int) else -1 for side in value.shape)


def value_of(value: ir.Value) -> Array | None:
    return None if value.const_value is None else value.const_value.numpy()


def constant(node: ir.Node, index: int) -> Array | None:
    """An input that is there and constant."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else value_of(value)


def ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default


def int_of(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def float_of(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default


def str_of(node: ir.Node, name: str, default: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else default
