"""A method's networks in a backend, opened for one size of image."""

import hashlib
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import TypedDict, Unpack

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends.network import Rows
from d2r_fast.engine.batch import rows_of
from d2r_fast.engine.build_engines import open_exportable
from d2r_fast.engine.config import Precision
from d2r_fast.engine.torch_network import cache_folder, open_torch
from d2r_fast.export.exportable import Exportable
from d2r_fast.translation.method import Method, Run, Size

_KEPT = 8
"""Sizes of image whose networks stay open."""
_Key = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


class Runtime(TypedDict):
    """What runs networks, as keywords of those who open them.

    backend: torch runs the weights as they are; the others run engines, which are built where they are missing.
    precision: arithmetic of the networks.
    engines: engines folder; None for a cache folder.
    device: "cpu" or "cuda:N".
    batch_size: images of one run on CUDA.
    """

    backend: str
    precision: Precision
    engines: Path | None
    device: str
    batch_size: int


def open_networks(method: Method, size: Size, **runtime: Unpack[Runtime]) -> dict[str, Run]:
    """Opens what images of a size go through.

    Args:
        method: whose networks they are.
        size: height and width of the images in pixels.
        runtime: see `Runtime`.

    Raises:
        UserError: no such backend here, or weights that do not do.
        RunError: an engine cannot be built.
    """
    return _open(method, method.networks(size), runtime)


def _open(method: Method, networks: tuple[Exportable, ...], runtime: Runtime) -> dict[str, Run]:
    backend, precision, device = runtime["backend"], runtime["precision"], runtime["device"]
    find_backend(backend)
    opened: dict[str, Run] = {}
    for network in networks:
        rows = rows_of(network.name, runtime["batch_size"])
        if backend == "torch":
            found = open_torch(network, precision=precision, batch_size=rows, device=device)
        else:
            found = open_exportable(
                network, engines=method_folder(runtime["engines"], method, networks), backend=backend,
                precision=precision, device=device, batch_size=rows,
            )  # fmt: skip
        opened[network.name] = Rows(found)
    return opened


def method_folder(engines: Path | None, method: Method, networks: tuple[Exportable, ...]) -> Path:
    """Where the engines of these weights lie in an engines folder: each weights' apart, so that two checkpoints of
    one method do not take each other's place."""
    digests = sorted({network.source[name] for network in networks for name in network.files})
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()[:8]
    return (engines or cache_folder()) / f"{method.NAME}-{digest}"


class Opened:
    """A method's networks by size of image, opened when first asked for; those of the last few sizes are kept.

    Args:
        method: whose networks they are.
        runtime: see `Runtime`.
    """

    def __init__(self, method: Method, **runtime: Unpack[Runtime]) -> None:
        self.method, self.device = method, runtime["device"]
        self._runtime = runtime
        self._kept: OrderedDict[_Key, dict[str, Run]] = OrderedDict()
        self._lock = Lock()

    def __call__(self, size: Size) -> dict[str, Run]:
        """The networks for images of this size.

        Raises:
            UserError, RunError: as `open_networks`.
        """
        networks = self.method.networks(size)
        key = tuple((network.name, tuple(sorted(network.source.items()))) for network in networks)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _open(self.method, networks, self._runtime)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]
