"""A recogniser as it is exported: the model folder's ONNX file, or any other of its kind, made uniform.

Its input and output get our ports' names, its batch becomes dynamic where the file fixes it, and batch norms are
folded into the convolutions and matrix products before them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir.passes.common as passes
import onnxruntime
import torch
from onnxscript import ir
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port, first_line
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.layout import RECOGNISER
from d2r_fast.engine.models.load import weight_file
from d2r_fast.engine.onnx_session import open_session
from d2r_fast.engine.recogniser import Normalisation, Recogniser
from d2r_fast.export.exportable import Exportable
from d2r_fast.export.graph import OPSET, strip_notes
from d2r_fast.export.onnx_module import to_torch
from d2r_fast.export.simplify import simplify


def open_arcface(models: Path, *, recogniser: Path | None) -> "OnnxExportable":
    """The folder's recogniser, or another ONNX file.

    Raises:
        UserError: no such file, or not a recogniser.
    """
    file = weight_file(models, RECOGNISER) if recogniser is None else recogniser
    opened = Recogniser.load(file)
    return OnnxExportable(
        name="arcface",
        inputs=(Port("crops", torch.float32, ("batch", 3, *opened.size)),),
        outputs=(Port("embedding", torch.float32, ("batch", opened.embedding_dim)),),
        files={file.name: file},
        settings={},
        draws={"crops": partial(_crop, rule=opened.normalisation)},
        file=file,
    )


def _crop(shape: tuple[int, ...], generator: torch.Generator, *, rule: Normalisation) -> Tensor:
    """Smooth random colours with some grain, normalised as the network is used to."""
    channels, height, width = shape
    coarse = torch.rand((1, channels, 7, 7), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    pixels = (smooth + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1).mul(255).to(torch.uint8)
    return torch.from_numpy(rule(pixels.permute(1, 2, 0)[None].numpy())[0])


@dataclass(frozen=True)
class OnnxExportable(Exportable):
    """A network that comes as ONNX, with one input and one output.

    Attributes:
        file: the ONNX file.
    """

    file: Path = field(repr=False)

    def load(self) -> nn.Module:
        """The graph run by torch, operator by operator."""
        return to_torch(self.graph(), name=str(self.file)).eval().requires_grad_(False)

    def reference_row(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file as it is, in onnxruntime on the CPU."""
        (taken,), (given,) = self._session.get_inputs(), self._session.get_outputs()
        crop = inputs[self.inputs[0].name].numpy()
        num_rows = taken.shape[0] if isinstance(taken.shape[0], int) else 1
        (values,) = self._session.run([given.name], {taken.name: crop.repeat(num_rows, 0)})
        return {self.outputs[0].name: torch.from_numpy(values[:1])}

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self.file, device="cpu")

    def graph(self) -> ir.Model:
        model = ir.serde.deserialize_model(_at_our_opset(self.file))
        passes.RemoveInitializersFromInputsPass()(model)
        _free_batch(model, self.file)
        strip_notes(model)
        for value, port in zip(
            (*model.graph.inputs, *model.graph.outputs), (*self.inputs, *self.outputs), strict=True
        ):
            value.name, value.shape = port.name, ir.Shape(port.shape)
        passes.NameFixPass()(model)
        simplify(model)
        _decide_reshapes(model)
        return model


def _decide_reshapes(model: ir.Model) -> None:
    """Gives x.view(x.size(0), ...), which older exporters write as a computed shape, a constant one."""
    for node in model.graph:
        shape = node.inputs[1] if node.op_type == "Reshape" else None
        concat = shape.producer() if shape is not None else None
        if concat is None or concat.op_type != "Concat":
            continue
        first, *rest = concat.inputs
        if first is None or not _is_batch(first) or any(v is None or v.const_value is None for v in rest):
            continue
        sides = np.concatenate([[0], *(v.const_value.numpy() for v in rest)])  # type: ignore[union-attr]
        name = f"{node.outputs[0].name}_shape"
        value = ir.val(name, const_value=ir.tensor(sides.astype(np.int64), name=name))
        model.graph.register_initializer(value)
        node.replace_input_with(1, value)  # where 0 stands for the input's own size
    passes.RemoveUnusedNodesPass()(model)


def _is_batch(value: ir.Value) -> bool:
    """Whether this is the first size of some activation, all of which have the batch there."""
    node = value.producer()
    if node is not None and node.op_type == "Unsqueeze":
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "Gather" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    index, shape = node.inputs[1].const_value, node.inputs[0].producer()
    return index is not None and not index.numpy().any() and shape is not None and shape.op_type == "Shape"


def _at_our_opset(file: Path) -> onnx.ModelProto:
    """The file's graph, converted where it is older than the opset of ours.

    Raises:
        UserError: it cannot be converted.
    """
    proto = onnx.load(file)
    opset = max(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise UserError(
            f"{file} is of opset {opset} and cannot be converted to {OPSET} ({first_line(error)}): export it again "
            "at a newer one"
        ) from error


def _free_batch(model: ir.Model, file: Path) -> None:
    """Makes a batch that the file fixes dynamic.

    Raises:
        UserError: a node counts on the batch being fixed.
    """
    (taken,), (given,) = model.graph.inputs, model.graph.outputs
    assert taken.shape is not None
    taken.shape = ir.Shape(("batch", *taken.shape[1:]))
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    passes.ShapeInferencePass(data_prop=True)(model)
    if given.shape is not None and isinstance(given.shape[0], int):
        raise UserError(
            f"{file} is written for a batch of {given.shape[0]} alone: export it again with a dynamic batch"
        )
