"""Layers of maps that are kept as rows: convolutions, and the ways to rows and back."""

from dataclasses import replace

import numpy as np
from onnxscript import ir

from d2r_fast.export import places
from d2r_fast.export.node import Array, Writer, constant, int_of, ints, shape_of
from d2r_fast.export.places import (
    TILES,
    ZERO,
    Map,
    compact,
    inner,
    is_range,
    kernel_of,
    padded,
    parts,
    phases_of,
    thinned,
    tile_of,
    tile_windows,
    tiled,
)
from d2r_fast.export.winograd import KERNEL, transforms, window_of


class Layers(Writer):
    """Writes the layers of a graph that have a form in rows.

    Attributes:
        maps: values that are there as rows.
        wide: values that are planes and had better be rows.
    """

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__(graph)
        self.maps: dict[ir.Value, Map] = {}
        self.wide: set[ir.Value] = set()
        self._planes: dict[ir.Value, ir.Value] = {}
        self._longer: dict[ir.Value, ir.Value] = {}

    def map(self, value: ir.Value | None) -> Map | None:
        """The map that a value is, or had better be."""
        if value is not None and value in self.wide:
            return self.as_map(value)
        return None if value is None else self.maps.get(value)

    def as_map(self, value: ir.Value) -> Map:
        if value not in self.maps:
            _, channels, height, width = shape_of(value)
            last = self.op("Transpose", value, shape=(1, height, width, channels), perm=[0, 2, 3, 1])
            rows = self.reshape(last, (height * width, channels))
            self.maps[value] = Map(rows, np.arange(height * width).reshape(height, width))
            self._planes[value] = value
        return self.maps[value]

    def as_planes(self, value: ir.Value) -> ir.Value:
        if value not in self._planes:
            x = self.maps[value]
            rows = x.rows if is_range(x) else self.gather(x, x.place)
            sides = x.place.shape
            last = self.reshape(rows, (1, *sides, x.num_channels))
            planes = self.op("Transpose", last, shape=(1, x.num_channels, *sides), perm=[0, 3, 1, 2])
            if len(shape_of(value)) != 4:
                planes = self.reshape(planes, shape_of(value))
            self._planes[value] = self._planes[planes] = planes
            self.maps[planes] = x
        return self._planes[value]

    def whole(self, x: Map) -> Map:
        """The same with every pixel in one row."""
        if x.is_whole:
            return x
        place = compact(x.place.shape)
        return replace(x, rows=self._reordered(x, place), place=place)

    def alike(self, maps: list[Map]) -> list[Map]:
        """Maps of one size, in the order of the first that is whole."""
        place = next((each.place for each in maps if each.is_whole), compact(maps[0].place.shape))
        return [
            each
            if np.array_equal(each.place, place)
            else replace(each, rows=self._reordered(each, place), place=place)
            for each in maps
        ]

    def _reordered(self, x: Map, place: Array) -> ir.Value:
        order = np.empty(place.size, np.int64)
        order[place.ravel()] = x.place.ravel()
        return self.gather(x, order)

    def gather(self, x: Map, wanted: Array) -> ir.Value:
        """Rows of these places, (places, C)."""
        rows = self._with_zero(x.rows) if ZERO in wanted else x.rows
        found = np.where(wanted == ZERO, x.num_rows, wanted).ravel()
        return self.op("Gather", rows, self.indices(found), shape=(found.size, x.num_channels), axis=0)

    def _with_zero(self, rows: ir.Value) -> ir.Value:
        """With one more row, of zeros."""
        if rows not in self._longer:
            num_rows, num_channels = shape_of(rows)
            zeros = self.const(np.zeros((1, num_channels)))
            self._longer[rows] = self.op("Concat", rows, zeros, shape=(num_rows + 1, num_channels), axis=0)
        return self._longer[rows]

    def _of_conv(self, node: ir.Node) -> Map | None:
        weight = constant(node, 1)
        if weight is None or weight.ndim != 4 or ints(node, "dilations", (1, 1)) != (1, 1):
            return None
        if int_of(node, "group", 1) > 1:
            return self._doubled(node)
        stride, kernel = ints(node, "strides", (1, 1)), weight.shape[2:]
        given = node.inputs[0]
        assert given is not None
        if stride[0] != stride[1] or (kernel != (1, 1) and min(weight.shape[:2]) < places.LEAST_CHANNELS):
            return None
        if kernel == (1, 1) and given not in self.maps:
            return None
        x = padded(self.as_map(given), ints(node, "pads", (0, 0, 0, 0)))
        bias = constant(node, 2)
        if kernel == (1, 1):
            return self._product(thinned(x, stride[0]), weight, bias)
        tile = tile_of(inner(x.place)) if kernel == (KERNEL, KERNEL) and stride == (1, 1) else None
        if tile is not None:
            return self._winograd(x, weight[None], bias, tile=tile)
        return self._windows_product(x, weight, bias, stride=stride[0])

    def _product(self, x: Map, weight: Array, bias: Array | None) -> Map:
        """A 1x1 convolution."""
        if x.num_rows > x.place.size:
            x = self.whole(x)
        rows = self.op("MatMul", x.rows, self.const(weight[:, :, 0, 0].T), shape=(x.num_rows, len(weight)))
        return replace(x, rows=self._biased(rows, bias), groups=0)

    def _windows_product(self, x: Map, weight: Array, bias: Array | None, *, stride: int) -> Map:
        """Any convolution, as one product of each output's window."""
        num, side = len(weight), weight.shape[2:]
        windows = np.lib.stride_tricks.sliding_window_view(x.place, side)[::stride, ::stride]
        place = compact(windows.shape[:2])
        ordered = np.empty((place.size, side[0] * side[1]), np.int64)
        ordered[place.ravel()] = windows.reshape(place.size, -1)
        seen = self.reshape(self.gather(x, ordered), (place.size, -1))
        flat = self.const(weight.transpose(2, 3, 1, 0).reshape(-1, num))
        return Map(self._biased(self.op("MatMul", seen, flat, shape=(place.size, num)), bias), place)

    def _winograd(self, x: Map, weights: Array, bias: Array | None, *, tile: int) -> Map:
        """3x3 convolutions of a map that has its border: (phases, D, C, 3, 3) -> each pixel's D for each phase.

        Of four phases each pixel becomes 2x2.
        """
        phases, num = weights.shape[:2]
        height, width = inner(x.place)
        windows, num_products = tile_windows(x.place, tile), window_of(tile) ** 2
        kernel = self.const(kernel_of(weights, tile))
        inputs, _, outputs = transforms(tile)
        to_products, to_outputs = self.const(inputs.numpy()), self.const(outputs.numpy())
        pieces = []
        for part in parts(windows.shape[1]):
            seen = self.reshape(self.gather(x, windows[:, part]), (num_products, -1))
            size = len(windows[0, part])
            seen = self.reshape(self.op("MatMul", to_products, seen), (num_products, size, x.num_channels))
            products = self.reshape(self.op("MatMul", seen, kernel), (num_products, -1))
            tiles = self.op("MatMul", to_outputs, products)
            pieces.append(self.reshape(tiles, (tile**2 * size * phases, num)))
        rows = pieces[0]
        if len(pieces) > 1:
            shape = (sum(shape_of(piece)[0] for piece in pieces), num)
            rows = self.op("Concat", *pieces, shape=shape, axis=0)
        place = tiled((height, width), tile)
        if phases > 1:
            place = (place[:, None, :, None] * 4 + np.arange(4).reshape(1, 2, 1, 2)).reshape(2 * height, -1)
        return Map(self._biased(rows, bias), place)

    def _doubled(self, node: ir.Node) -> Map | None:
        """A transposed convolution of stride 2 and the blur after it: four 3x3 convolutions, one for each of the 2x2
        pixels that a pixel becomes."""
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is None or before.op_type != "ConvTranspose" or int_of(before, "group", 1) > 1:
            return None
        weight, blur = constant(before, 1), constant(node, 1)
        given = before.inputs[0]
        if (
            weight is None
            or blur is None
            or given is None
            or min(weight.shape[:2]) < places.LEAST_CHANNELS // 2
        ):
            return None
        if constant(before, 2) is not None or shape_of(node.outputs[0])[2] != 2 * shape_of(given)[2]:
            return None
        phases = phases_of(before, node, weight, blur)
        if phases is None:
            return None
        x = padded(self.as_map(given), (1, 1, 1, 1))
        return self._winograd(x, phases, constant(node, 2), tile=tile_of(inner(x.place)) or TILES[-1])

    def _biased(self, rows: ir.Value, bias: Array | None) -> ir.Value:
        if bias is None or not bias.any():
            return rows
        return self.op("Add", rows, self.const(bias[None]), shape=shape_of(rows))
