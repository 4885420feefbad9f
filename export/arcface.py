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

from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.layout import RECOGNISER
from d2r_fast.engine.models.load import weight_file
from d2r_fast.engine.onnx_session import open_session
from d2r_fast.engine.recogniser import Normalisation, Recogniser
from d2r_fast.export.exportable import Exportable
from d2r_fast.export.graph import strip_notes
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
        draws={"crops": partial(_crop, rule=opened._rule)},
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

    def reference(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file as it is, in onnxruntime on the CPU."""
        session = self._session
        (taken,), (given,) = session.get_inputs(), session.get_outputs()
        crops = inputs[self.inputs[0].name].numpy()
        num_rows = len(crops)
        fixed = taken.shape[0] if isinstance(taken.shape[0], int) else num_rows
        filled = np.concatenate([crops, np.zeros((-num_rows % fixed, *crops.shape[1:]), np.float32)])
        parts = [
            session.run([given.name], {taken.name: part})[0]
            for part in np.split(filled, range(fixed, len(filled), fixed))
        ]
        return {self.outputs[0].name: torch.from_numpy(np.concatenate(parts)[:num_rows])}

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self.file, device="cpu")

    def graph(self) -> ir.Model:
        model = ir.serde.deserialize_model(onnx.load(self.file))
        passes.RemoveInitializersFromInputsPass()(model)
        _free_batch(model, self.file)
        strip_notes(model)
        for value, port in zip(
            (*model.graph.inputs, *model.graph.outputs), (*self.inputs, *self.outputs), strict=True
        ):
            value.name, value.shape = port.name, ir.Shape(port.shape)
        passes.NameFixPass()(model)
        simplify(model)
        return model


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
