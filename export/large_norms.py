"""Norms over millions of numbers, in float32, without losing the last digits.

A group norm is written as an InstanceNormalization over each group, which at 512 pixels of the VAE is two million
numbers. onnxruntime adds them up one after the other: the sum is off by 1e-5, and so is the image. Averages of
averages are not. Half precision needs no such care, and there the one operator stays, which runtimes fuse.
"""

from math import isqrt

import numpy as np
import onnx_ir.passes.common as passes
from onnxscript import ir

MANY = 2**18
"""Numbers of a group from which on it matters."""


def split_large_norms(model: ir.Model) -> None:
    """Rewrites, in place, instance norms over MANY numbers or more: (x - mean) / sqrt(variance + epsilon)."""
    large = [(node, count) for node in model.graph if (count := _count(node)) >= MANY]
    for node, count in large:
        _split(model.graph, node, count)
    passes.RemoveUnusedNodesPass()(model)


def _count(node: ir.Node) -> int:
    """Numbers in a group of a plain norm over the last of three axes, as group norms are written; 0 for others."""
    if node.op_type != "InstanceNormalization":
        return 0
    x, scale, bias = node.inputs
    plain = (_holds_only(scale, 1.0), _holds_only(bias, 0.0))
    if plain != (True, True) or x is None or x.shape is None or len(x.shape) != 3:
        return 0
    return x.shape[2] if isinstance(x.shape[2], int) else 0


def _holds_only(value: ir.Value | None, number: float) -> bool:
    return (
        value is not None
        and value.const_value is not None
        and bool((value.const_value.numpy() == number).all())
    )


def _split(graph: ir.Graph, node: ir.Node, count: int) -> None:
    """In two steps of about the square root of the count each."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    steps = next(k for k in range(isqrt(count), 0, -1) if count % k == 0)

    def constant(name: str, numbers: list[int] | float) -> ir.Value:
        array = np.array(numbers, np.float32 if isinstance(numbers, float) else np.int64)
        value = ir.val(f"{y.name}_{name}", const_value=ir.tensor(array, name=f"{y.name}_{name}"))
        graph.register_initializer(value)
        return value

    def add(operator: str, name: str, *inputs: ir.Value) -> ir.Value:
        added = ir.node(operator, inputs, name=f"{node.name}_{name}")
        added.outputs[0].name = f"{y.name}_{name}"
        graph.insert_before(node, added)
        return added.outputs[0]

    def mean(value: ir.Value, name: str) -> ir.Value:
        return add("ReduceMean", f"{name}_mean", add("ReduceMean", f"{name}_means", value, last), second)

    last, second = constant("last", [-1]), constant("second", [-2])
    rows = add("Reshape", "rows", x, constant("rows_shape", [0, 0, steps, -1]))
    centred = add("Sub", "centred", rows, mean(rows, "rows"))
    variance = mean(add("Mul", "squares", centred, centred), "squares")
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    deviation = add("Sqrt", "deviation", add("Add", "padded", variance, constant("epsilon", epsilon)))
    normal = add(
        "Reshape", "normal", add("Div", "divided", centred, deviation), constant("shape", [0, 0, -1])
    )
    normal.type, normal.shape = y.type, y.shape
    y.replace_all_uses_with(normal)
    graph.remove(node, safe=True)
