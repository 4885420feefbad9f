"""A torch module as an ONNX graph that is the same for the same network, on every machine.

Traced at opset 18, the exporter's native one: newer opsets only convert from it, and every runtime we target
(onnxruntime, OpenVINO, TensorRT) reads it.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from onnxscript import ir, opset18
from torch import Tensor, nn

from d2r_fast.engine.files import Written
from d2r_fast.export.onnx_file import write_onnx
from d2r_fast.export.simplify import simplify

OPSET = 18
BATCH = torch.export.Dim("batch", min=1, max=63)
"""A batch of any size: the graph knows no bound. diffusers' upsampling looks whether there are 64 rows or more,
and the exporter, which may not branch, would trace everything again to find that out."""

DynamicAxes = Mapping[str, Mapping[int, Any]]
"""Input -> axis -> torch.export.Dim; axes that are not named keep the example's size."""


def export_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    path: Path,
    *,
    outputs: Sequence[str],
    dynamic_axes: DynamicAxes,
) -> Written:
    """Write `network` (in eval mode) as one ONNX file below 2 GiB, traced on the example `inputs`, in order.

    Raises onnx.checker.ValidationError where the graph is not valid.
    """
    (written,) = write_onnx(trace(network, inputs, outputs=outputs, dynamic_axes=dynamic_axes), path).values()
    return written


def trace(
    network: nn.Module, inputs: Mapping[str, Tensor], *, outputs: Sequence[str], dynamic_axes: DynamicAxes
) -> ir.Model:
    """The graph of `network` (in eval mode), which shares the network's weights.

    The same network gives the same graph: the exporter's notes on where a node came from (source lines and
    file paths of the machine) are removed.
    """
    assert not network.training, "an exported network must be in eval mode"
    with _quiet_exporter(), torch.inference_mode():
        program = torch.onnx.export(
            network,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=_as_parameters(network, [dict(dynamic_axes.get(name, {})) for name in inputs]),
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            optimize=False,
            verbose=False,
        )
    assert program is not None, "torch.onnx.export returns a program where it is given no file"
    model = program.model
    for value in model.graph.inputs:
        assert value.shape is not None
        fixed = [axis for axis in dynamic_axes.get(str(value.name), {}) if isinstance(value.shape[axis], int)]
        assert not fixed, f"tracing decided axes {fixed} of {value.name}, which the exporter does not say"
    simplify(model)
    strip_notes(model)
    return model


def _as_parameters(network: nn.Module, axes: list[dict[int, Any]]) -> tuple[Any, ...]:
    """The inputs' axes as the exporter pairs them with the parameters of `forward`: those of `*values` are one."""
    parameters = inspect.signature(network.forward).parameters.values()
    named = sum(parameter.kind is not inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    return (*axes[:named], tuple(axes[named:])) if len(axes) > named else tuple(axes)


def strip_notes(model: ir.Model) -> None:
    """Removes documentation and metadata, which name the machine, from a graph."""
    graph = model.graph
    values = (
        *graph.inputs,
        *graph.initializers.values(),
        *(value for node in graph for value in node.outputs),
    )
    for part in (model, graph, *graph, *values):
        part.metadata_props.clear()
        part.doc_string = None


_MASKED = -1e4
"""Added to a score that may not count: exp() of it is 0 in every arithmetic, and float16 holds it."""


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention as runtimes look for it, to run it as one kernel: MatMul, (Add,) Softmax, MatMul.

    The exporter's own translation transposes the keys by way of two reshapes with computed shapes. The scale
    is split between queries and keys, as PyTorch's own does, so that scores stay in float16's range.
    """
    assert dropout_p == 0.0, "an exported network is in eval mode"
    assert not enable_gqa, "no network here groups its queries"
    op: Any = opset18  # typed for tensors alone, where the exporter takes numbers too
    root = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    scores = op.MatMul(op.Mul(query, root), op.Mul(op.Transpose(key, perm=[0, 1, 3, 2]), root))
    if is_causal:
        assert attn_mask is None
        attn_mask = op.Constant(
            value=ir.tensor(torch.full((query.shape[2], key.shape[2]), _MASKED).triu(1).numpy())
        )
    elif attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL:
        attn_mask = op.Where(attn_mask, 0.0, _MASKED)
    if attn_mask is not None:
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's own known noise out, and nothing else.

    It logs one line per torchvision operator where torchvision is not installed, copies pytree specs in a way
    that its own deprecation (torch 2.13) warns of, and warns that two axes of one size have one name, as is
    wanted here.
    """
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            warnings.filterwarnings("ignore", message=r"# The axis name: batch will not be used")
            yield
    finally:
        registry.setLevel(level)
