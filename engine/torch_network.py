"""A network as torch runs it, straight from its weights; and where engines of others are kept.

Apart from `backend`, which opens model folders: that imports diffusers and transformers, which take seconds.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends.network import Network, Port
from d2r_fast.engine.backends.spec import Spec
from d2r_fast.engine.config import Precision
from d2r_fast.export.exportable import Exportable


def cache_folder() -> Path:
    """Where engines are kept if nobody says where."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "d2r-fast" / "engines"


@dataclass(frozen=True)
class _Folder:
    """A source that has a torch module and no ONNX."""

    network: Exportable

    @property
    def onnx(self) -> Path:
        raise AssertionError("the torch backend reads no ONNX")


def open_torch(
    network: Exportable, *, precision: Precision, batch_size: int, device: str, any_size: bool = False
) -> Network:
    """A network as torch runs it.

    Args:
        network: not loaded yet.
        precision: its arithmetic, unless it computes in float32 alone.
        batch_size: rows of one run on CUDA.
        device: "cpu" or "cuda:N".
        any_size: whether it takes images of other sizes than its ports say.

    Raises:
        UserError: its files do not do.
    """
    precision = network.arithmetic(precision)
    network = network.on(device, precision)
    num_rows = 1 if device == "cpu" else batch_size
    ports = [tuple(port.at(num_rows) for port in ports) for ports in (network.inputs, network.outputs)]
    inputs, outputs = [tuple(map(_any_size, given)) for given in ports] if any_size else ports
    spec = Spec(
        name=network.name, backend="torch", precision=precision, batch_size=num_rows,
        device=device, targets=(), inputs=inputs, outputs=outputs,
    )  # fmt: skip
    return find_backend("torch").load(spec, {}, _Folder(network))


def _any_size(port: Port) -> Port:
    """The port with the sides of its image left open."""
    return Port(port.name, port.dtype, (*port.shape[:2], "height", "width")) if len(port.shape) == 4 else port
