"""A torch module as a self-contained, checked, reproducible ONNX file.

Written at opset 18, the exporter's native one: newer opsets only convert from it, and every runtime we
target (onnxruntime, TensorRT) reads it. Weights lie inside the file, so it must stay below protobuf's 2 GiB.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from d2r_fast.engine.files import Written, write_atomic

OPSET = 18


def export_onnx(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    input_name: str,
    output_names: Sequence[str],
    dynamic_axes: dict[int, Any],
) -> Written:
    """Write `network` (in eval mode) as `path`; `dynamic_axes` maps axes of its input to torch.export.Dim.

    The same network gives the same bytes: the exporter's notes on where a node came from (source lines and
    file paths of the machine) are removed. Raises onnx.checker.ValidationError where the graph is not valid.
    """
    assert not network.training, "an exported network must be in eval mode"
    with _quiet_exporter(), torch.inference_mode():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=list(output_names),
            dynamic_shapes=(dynamic_axes,),
            verbose=False,
        )
    assert program is not None, "torch.onnx.export returns a program where it is given no file"
    model = program.model_proto
    _strip_provenance(model)
    onnx.checker.check_model(model, full_check=True)
    return write_atomic(path, model.SerializeToString(deterministic=True))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's own known noise out, and nothing else.

    It logs one line per torchvision operator where torchvision is not installed, and copies pytree specs in
    a way that its own deprecation (torch 2.13) warns of.
    """
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            yield
    finally:
        registry.setLevel(level)


def _strip_provenance(model: Any) -> None:
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
