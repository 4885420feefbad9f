"""The networks that engines are built of: opened by name, and written as ONNX."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnxscript import ir

from d2r_fast.engine.errors import UserError
from d2r_fast.export.arcface import open_arcface
from d2r_fast.export.encoder import open_encoder
from d2r_fast.export.exportable import Exportable
from d2r_fast.export.large_norms import split_large_norms
from d2r_fast.export.mtcnn import open_mtcnn
from d2r_fast.export.onnx_file import write_onnx
from d2r_fast.export.precision import Precision, lower
from d2r_fast.export.unet import open_unet
from d2r_fast.export.vae import open_vae

__all__ = ["NETWORKS", "Exportable", "Precision", "export_network", "open_network"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a network is asked for.

    Attributes:
        models: model folder.
        height, width: of the image in pixels; None: what the UNet was trained on.
        lora: whether the folder's LCM-LoRA is merged into the UNet.
        recogniser: an ONNX file in place of the folder's.
    """

    models: Path
    height: int | None
    width: int | None
    lora: bool
    recogniser: Path | None


_OPENERS: dict[str, Callable[[Wanted], Exportable]] = {
    "unet": lambda w: open_unet(w.models, height=w.height, width=w.width, lora=w.lora),
    "vae": lambda w: open_vae(w.models, height=w.height, width=w.width),
    "encoder": lambda w: open_encoder(w.models),
    "arcface": lambda w: open_arcface(w.models, recogniser=w.recogniser),
    "pnet": lambda w: open_mtcnn("pnet"),
    "rnet": lambda w: open_mtcnn("rnet"),
    "onet": lambda w: open_mtcnn("onet"),
}
NETWORKS = tuple(_OPENERS)
"""One entry above adds a network to all that is said and done by name."""


def open_network(
    name: str,
    models: Path,
    *,
    height: int | None = None,
    width: int | None = None,
    lora: bool = False,
    recogniser: Path | None = None,
) -> Exportable:
    """One network of a model folder; its weights are not loaded yet.

    Args:
        name: one of NETWORKS.
        models: model folder; MTCNN's three networks come with their package instead.
        height, width: of the image in pixels, for UNet and VAE; None: what the UNet was trained on.
        lora: whether the folder's LCM-LoRA is merged into the UNet.
        recogniser: an ONNX file in place of the folder's.

    Raises:
        UserError: no such network, a size that is no multiple of 8, or a file that is missing or is none.
    """
    if name not in _OPENERS:
        raise UserError(f"network {name!r} is not there: expected one of {', '.join(NETWORKS)}")
    return _OPENERS[name](Wanted(models, height, width, lora, recogniser))


def export_network(network: Exportable, path: Path, *, precision: Precision) -> tuple[Path, ...]:
    """Write a network as ONNX, checked, whole or not at all; the same network gives the same bytes.

    Inputs and outputs are the network's ports, float32 and int64 whatever `precision` is.

    Args:
        network: as open_network gives it.
        path: the .onnx file to write; large weights go to a second file beside it, named after it.
        precision: what the network computes in, unless it is one that computes in float32 alone.

    Returns:
        The files written, `path` last.

    Raises:
        UserError: files that do not do, a weight beyond float16, or a place that cannot be written to.
        RunError: the disk is full.
    """
    arithmetic = network.arithmetic(precision)
    return tuple(write_onnx(to_precision(network.graph(), arithmetic, name=network.name), path))


def to_precision(graph: ir.Model, precision: Precision, *, name: str) -> ir.Model:
    """A network's float32 graph, which is used up, as it is written in a precision.

    Raises:
        UserError: a weight beyond float16.
    """
    if precision == "fp32":
        split_large_norms(graph)
        return graph
    return lower(graph, precision, name=name)
