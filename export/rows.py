"""Maps kept as rows, one for each pixel, so that wide 3x3 convolutions take a quarter of the multiplications.

Winograd's convolution (export/winograd.py) is a gather and three matrix products of rows (a pixel's channels), and
most of what stands between convolutions does not mind in which order the pixels lie: activations, norms, sums, 1x1
convolutions. So a map stays what the last convolution left, and the next one gathers from there. Borders, doubling by
repetition and thinning out are only other places to gather from. What has no such form is given planes again.

For a CPU in float32 and one image at a time.
"""

from dataclasses import replace

import numpy as np
import onnx_ir.passes.common as passes
from onnxscript import ir

from d2r_fast.export import places
from d2r_fast.export.node import constant, float_of, int_of, ints, shape_of, str_of, value_of
from d2r_fast.export.places import FEW_CHANNELS, MEAN_STEP, TILES, ZERO, Map, is_range, thinned
from d2r_fast.export.row_layers import Layers
from d2r_fast.export.simplify import simplify
from d2r_fast.export.winograd import KERNEL

UNARY = frozenset({"Abs", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh"})
BINARY = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})


def keep_rows(model: ir.Model) -> None:
    """Rewrites a graph in place, for a batch of one: wide convolutions and what lies between them in rows.

    A graph without any stays what it was.
    """
    if not any(_is_wide(node) for node in model.graph):
        return
    _decide_batch(model)
    _Rewriting(model.graph).run()
    for finish in (
        passes.RemoveUnusedNodesPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.NameFixPass(),
        passes.TopologicalSortPass(),
        passes.ShapeInferencePass(),
    ):
        finish(model)


def _is_wide(node: ir.Node) -> bool:
    weight = constant(node, 1) if node.op_type == "Conv" else None
    return (
        weight is not None
        and weight.shape[2:] == (KERNEL, KERNEL)
        and min(weight.shape[:2]) >= places.LEAST_CHANNELS
    )


def _is_worth(shape: tuple[int, ...]) -> bool:
    """Whether a map of this shape had better be rows."""
    return shape[1] >= places.LEAST_CHANNELS and min(shape[2:]) >= TILES[0]


def _decide_batch(model: ir.Model) -> None:
    """One row in every input, and every shape that follows from it."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([1, *list(value.shape)[1:]])
    for node in model.graph:
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.shape = None
    simplify(model)
    passes.ShapeInferencePass()(model)


class _Rewriting(Layers):
    """One walk through a graph; each node becomes one of rows or is left as it is, given planes."""

    def run(self) -> None:
        for node in list(self.graph):
            self.at = node
            made = self._rows_of(node)
            if made is not None:
                self.maps[node.outputs[0]] = made
                continue
            if node.op_type == "Conv" and _is_worth(shape_of(node.outputs[0])):
                self.wide.add(node.outputs[0])
            for index, value in enumerate(node.inputs):
                if value in self.maps:
                    node.replace_input_with(index, self.as_planes(value))
        self.at = None
        for index, value in enumerate(self.graph.outputs):
            if value in self.maps:
                planes, name = self.as_planes(value), value.name
                value.name = f"{name}_rows"
                planes.name, planes.type = name, value.type
                self.graph.outputs[index] = planes

    def _rows_of(self, node: ir.Node) -> Map | None:
        """The node's output as a map; None where the node is to stay."""
        if node.op_type in UNARY:
            return self._unary(node)
        if node.op_type in BINARY:
            return self._binary(node)
        make = getattr(self, f"_of_{node.op_type.lower()}", None)
        made: Map | None = make(node) if make else None
        return made

    # What stands between them.

    def _unary(self, node: ir.Node) -> Map | None:
        x = self.map(node.inputs[0])
        if x is None or (ZERO in x.place and node.op_type == "Sigmoid"):
            return None
        attributes = {name: each.value for name, each in node.attributes.items()}
        return replace(x, rows=self.op(node.op_type, x.rows, shape=shape_of(x.rows), **attributes))

    def _binary(self, node: ir.Node) -> Map | None:
        maps = [self.map(value) for value in node.inputs]
        x = next((each for each in maps if each is not None), None)
        if x is None:
            return None
        if len({each.place.shape for each in maps if each is not None}) > 1:
            return None
        if all(each is not None for each in maps) or self._is_map(node):
            if x.num_channels <= FEW_CHANNELS:
                return None
            both = self.alike([self.as_map(value) for value in node.inputs if value is not None])
            return replace(
                both[0],
                rows=self.op(node.op_type, *(each.rows for each in both), shape=shape_of(both[0].rows)),
            )
        x = self.whole(x)
        operands = [
            x.rows if each is not None else self._operand(value, x, node)
            for each, value in zip(maps, node.inputs, strict=True)
        ]
        known = [each for each in operands if each is not None]
        if len(known) < len(operands):
            return None
        return replace(x, rows=self.op(node.op_type, *known, shape=shape_of(x.rows)))

    def _is_map(self, node: ir.Node) -> bool:
        """Whether all inputs are maps of the output's size."""
        shape = shape_of(node.outputs[0])
        return len(shape) == 4 and all(
            value is not None and shape_of(value) == shape for value in node.inputs
        )

    def _operand(self, value: ir.Value | None, x: Map, node: ir.Node) -> ir.Value | None:
        """What a map meets, as rows do: a number, one for each channel, or one for each pixel."""
        assert value is not None
        rank = len(shape_of(node.outputs[0]))
        shape = (1,) * (rank - len(shape_of(value))) + shape_of(value)
        if not x.groups and shape == (1, x.num_channels, *(1,) * (rank - 2)):
            found = value_of(value)
            return self.reshape(value, (1, -1)) if found is None else self.const(found.reshape(1, -1))
        if set(shape) <= {1}:
            found = value_of(value)
            return self.reshape(value, (1, 1)) if found is None else self.const(found.reshape(1, 1))
        found = value_of(value)
        if found is not None and shape == (1, 1, *x.place.shape):
            column = np.empty((x.num_rows, 1), np.float32)
            column[x.place.ravel(), 0] = found.ravel()
            return self.const(column)
        return None

    def _of_prelu(self, node: ir.Node) -> Map | None:
        x, slope = self.map(node.inputs[0]), constant(node, 1)
        if x is None or slope is None or slope.size not in (1, x.num_channels):
            return None
        return replace(
            x, rows=self.op("PRelu", x.rows, self.const(slope.reshape(1, -1)), shape=shape_of(x.rows))
        )

    def _of_batchnormalization(self, node: ir.Node) -> Map | None:
        x, numbers = self.map(node.inputs[0]), [constant(node, index) for index in range(1, 5)]
        if x is None or any(each is None for each in numbers):
            return None
        scale, bias, mean, variance = (each.astype(np.float64) for each in numbers if each is not None)
        factor = scale / np.sqrt(variance + float_of(node, "epsilon", 1e-5))
        x = self.whole(x)
        return self._scaled(x, self.const(factor[None]), self.const((bias - mean * factor)[None]))

    def _of_instancenormalization(self, node: ir.Node) -> Map | None:
        """Over groups of channels where it was reshaped so, else over each channel."""
        x, scale, bias = self.map(node.inputs[0]), constant(node, 1), constant(node, 2)
        if x is None or scale is None or bias is None:
            return None
        x = self.whole(x)
        groups = x.groups or x.num_channels
        if len(scale) != groups:
            return None
        mean = self._over_groups(self._mean(x.rows), groups)
        apart = self.op("Sub", x.rows, self._spread(mean, x), shape=shape_of(x.rows))
        squares = self.op("Mul", apart, apart, shape=shape_of(x.rows))
        variance = self._over_groups(self._mean(squares), groups)
        epsilon = self.const(np.array(float_of(node, "epsilon", 1e-5)))
        deviation = self.op("Sqrt", self.op("Add", variance, epsilon, shape=(groups, 1)), shape=(groups, 1))
        factor = self.op("Div", self.const(scale.reshape(groups, 1)), deviation, shape=(groups, 1))
        offset = self.op("Mul", mean, factor, shape=(groups, 1))
        offset = self.op("Sub", self.const(bias.reshape(groups, 1)), offset, shape=(groups, 1))
        return self._scaled(x, self._spread(factor, x), self._spread(offset, x))

    def _scaled(self, x: Map, factor: ir.Value, offset: ir.Value) -> Map:
        scaled = self.op("Mul", x.rows, factor, shape=shape_of(x.rows))
        return replace(x, rows=self.op("Add", scaled, offset, shape=shape_of(x.rows)))

    def _mean(self, rows: ir.Value) -> ir.Value:
        """(R, C) -> (1, C): averages of averages."""
        num_rows, num_channels = shape_of(rows)
        step = next(step for step in range(min(num_rows, MEAN_STEP), 0, -1) if num_rows % step == 0)
        first = self.reshape(rows, (num_rows // step, step, num_channels))
        means = self.op(
            "ReduceMean", first, self.indices([1]), shape=(num_rows // step, num_channels), keepdims=0
        )
        return self.op("ReduceMean", means, self.indices([0]), shape=(1, num_channels), keepdims=1)

    def _over_groups(self, value: ir.Value, groups: int) -> ir.Value:
        """(1, C) -> (groups, 1): the average of each group."""
        split = self.reshape(value, (groups, -1))
        return self.op("ReduceMean", split, self.indices([1]), shape=(groups, 1), keepdims=1)

    def _spread(self, value: ir.Value, x: Map) -> ir.Value:
        """(groups, 1) -> (1, C): each group's number for each of its channels."""
        zeros = self.const(np.zeros((shape_of(value)[0], x.num_channels // shape_of(value)[0])))
        return self.reshape(self.op("Add", value, zeros, shape=shape_of(zeros)), (1, x.num_channels))

    def _of_reducemean(self, node: ir.Node) -> Map | None:
        x, axes = self.map(node.inputs[0]), constant(node, 1)
        if x is not None and axes is not None and sorted(axes % 4) == [2, 3] and not x.groups:
            mean = self.reshape(self._mean(self.whole(x).rows), shape_of(node.outputs[0]))
            node.outputs[0].replace_all_uses_with(mean)
        return None

    # Other ways to look at a map.

    def _of_reshape(self, node: ir.Node) -> Map | None:
        given, shape = node.inputs[0], shape_of(node.outputs[0])
        x = self.map(given)
        if x is None:
            return self._of_tokens(given, shape)
        height, width = x.place.shape
        if shape in ((1, x.num_channels, height, width), (1, x.num_channels, height * width)):
            return replace(x, groups=0)
        if len(shape) == 3 and shape[0] == 1 and x.num_channels % shape[1] == 0:
            return replace(x, groups=shape[1])
        return None

    def _of_tokens(self, given: ir.Value | None, shape: tuple[int, ...]) -> Map | None:
        """A map that comes from tokens (1, H W, C), which are rows."""
        before = given.producer() if given is not None else None
        if before is None or before.op_type != "Transpose" or len(shape) != 4:
            return None
        tokens, perm = before.inputs[0], ints(before, "perm", ())
        if tokens is None or perm != (0, 2, 1) or tokens in self.maps:
            return None
        if shape_of(tokens) != (1, shape[2] * shape[3], shape[1]):
            return None
        rows = self.reshape(tokens, (shape[2] * shape[3], shape[1]))
        return Map(rows, np.arange(shape[2] * shape[3]).reshape(shape[2:]))

    def _of_transpose(self, node: ir.Node) -> Map | None:
        """Tokens (1, H W, C) of a map."""
        x = self.map(node.inputs[0])
        if x is not None and not x.groups and ints(node, "perm", ()) == (0, 2, 1):
            rows = x.rows if is_range(x) else self.gather(x, x.place)
            node.outputs[0].replace_all_uses_with(self.reshape(rows, shape_of(node.outputs[0])))
        return None

    def _of_concat(self, node: ir.Node) -> Map | None:
        known = [value for value in node.inputs if self.map(value) is not None]
        if not known or int_of(node, "axis", 0) != 1 or len(shape_of(node.outputs[0])) != 4:
            return None
        maps = self.alike([self.as_map(value) for value in node.inputs if value is not None])
        shape = (maps[0].num_rows, sum(each.num_channels for each in maps))
        return replace(maps[0], rows=self.op("Concat", *(each.rows for each in maps), shape=shape, axis=1))

    def _of_resize(self, node: ir.Node) -> Map | None:
        """Repetition of pixels."""
        x, shape = self.map(node.inputs[0]), shape_of(node.outputs[0])
        if x is None or str_of(node, "mode", "nearest") != "nearest":
            return None
        how = str_of(node, "coordinate_transformation_mode", ""), str_of(node, "nearest_mode", "")
        factors = [after // before for before, after in zip(x.place.shape, shape[2:], strict=True)]
        if how != ("asymmetric", "floor") or [
            n * k for n, k in zip(x.place.shape, factors, strict=True)
        ] != list(shape[2:]):
            return None
        return replace(x, place=x.place.repeat(factors[0], 0).repeat(factors[1], 1))

    def _of_pad(self, node: ir.Node) -> Map | None:
        x, pads = self.map(node.inputs[0]), constant(node, 1)
        mode, value = str_of(node, "mode", "constant"), constant(node, 2)
        if x is None or pads is None or len(node.inputs) > 3 or mode not in ("constant", "reflect"):
            return None
        if (value is not None and value.any()) or pads[[0, 1, 4, 5]].any():
            return None
        sides = ((pads[2], pads[6]), (pads[3], pads[7]))
        if mode == "constant":
            return replace(x, place=np.pad(x.place, sides, constant_values=ZERO))
        return replace(x, place=np.pad(x.place, sides, mode="reflect"))

    def _of_maxpool(self, node: ir.Node) -> Map | None:
        x, stride = self.map(node.inputs[0]), ints(node, "strides", (1, 1))
        if x is None or ints(node, "kernel_shape", ()) != (1, 1) or stride[0] != stride[1]:
            return None
        return thinned(x, stride[0])
