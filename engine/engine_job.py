"""One engine that is wanted: what of, by which backend, for what, and the key that only it has."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends.spec import DTYPES, Backend, Spec
from d2r_fast.engine.config import Precision
from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.engine_file import Built, find
from d2r_fast.engine.engine_record import EngineRecord
from d2r_fast.engine.engine_source import EngineSource
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import disk_errors

if TYPE_CHECKING:
    from d2r_fast.export.networks import Exportable

NETWORKS = ("unet", "vae", "encoder", "arcface", "pnet", "rnet", "onet")
GROUPS = {"detector": ("pnet", "rnet", "onet")}
"""Names on the command line that stand for several networks."""
AHEAD_OF_TIME = ("tensorrt", "tensorrt-rtx")
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for, checked and with this machine's defaults filled in.

    Attributes:
        backend, precision: names as on the command line.
        device: "cpu", "cuda:N", or "cuda" to build for a card that is not here.
        batch_size: rows of one run; 1 on the CPU, where each thread runs one row.
        height, width: of the image in pixels; None: what the UNet was trained on.
        lora: whether the UNet is the one with the LCM-LoRA merged into it.
        recogniser: an ONNX file in place of the model folder's.
        targets: compute capabilities to build for, as "sm89".
    """

    backend: str
    precision: Precision
    device: str = "auto"
    batch_size: int = 8
    height: int | None = None
    width: int | None = None
    lora: bool = False
    recogniser: Path | None = None
    targets: tuple[str, ...] = ()

    def checked(self) -> "Wish":
        """This wish with its device found, once backend, precision and sizes are known to be possible.

        Raises:
            UserError: they are not.
        """
        backend = find_backend(self.backend)
        if self.precision not in DTYPES:
            raise UserError(f"precision {self.precision!r} is not there: expected one of {', '.join(DTYPES)}")
        if self.batch_size < 1:
            raise UserError(f"batch size {self.batch_size}: expected at least 1")
        _check_size(self.height, self.width)
        if self.targets and self.backend != "tensorrt-rtx":
            raise UserError(f"backend {self.backend} builds for this machine alone: leave --targets out")
        device = self._device()
        reason = backend.why_not_build(device, self.targets)
        if reason is not None:
            raise UserError(f"backend {self.backend}: {reason}")
        reason = backend.why_not_precision(self.precision, device)
        if reason is not None:
            raise UserError(f"backend {self.backend} in {self.precision}: {reason}")
        return replace(self, device=device, batch_size=1 if device == "cpu" else self.batch_size)

    def _device(self) -> str:
        if self.backend not in AHEAD_OF_TIME:
            return find_device(self.device)
        if self.device == "cpu":
            raise UserError(f"backend {self.backend} runs on CUDA alone: give --device cuda")
        return (
            find_device("cuda" if self.device == "auto" else self.device)
            if torch.cuda.is_available()
            else "cuda"
        )


def _check_size(height: int | None, width: int | None) -> None:
    if (height is None) != (width is None):
        raise UserError("height and width go together: give both or neither")
    for name, size in (("height", height), ("width", width)):
        if size is not None and (size < 8 or size % 8):
            raise UserError(f"{name} {size}: expected a multiple of 8 pixels, 8 or more")


def expand(networks: str) -> tuple[str, ...]:
    """The networks that a comma-separated list names.

    Raises:
        UserError: an unknown name, or none.
    """
    names = [name.strip() for name in networks.split(",") if name.strip()]
    unknown = [name for name in names if name not in (*NETWORKS, *GROUPS)]
    if unknown or not names:
        given = f"network {unknown[0]!r} is not there" if unknown else "networks is empty"
        raise UserError(f"{given}: expected a list of {', '.join((*NETWORKS[:4], *GROUPS, *NETWORKS[4:]))}")
    return tuple(dict.fromkeys(part for name in names for part in GROUPS.get(name, (name,))))


class Job:
    """A wish for one network of one model folder.

    Args:
        network: as export.networks opens it.
        root: engines folder.
        wish: as `Wish.checked` returns it.
    """

    def __init__(self, network: "Exportable", root: Path, wish: Wish) -> None:
        self.network, self.root, self.wish = network, root, wish
        self.backend: Backend = find_backend(wish.backend)
        self.spec = Spec(
            name=network.name, backend=wish.backend, precision=wish.precision, batch_size=wish.batch_size,
            device=wish.device, targets=wish.targets,
            inputs=tuple(port.at(wish.batch_size) for port in network.inputs),
            outputs=tuple(port.at(wish.batch_size) for port in network.outputs),
        )  # fmt: skip
        variant = _variant(network.source)
        name = f"{network.name}-{wish.precision}-b{wish.batch_size}"
        self.sidecar = root / wish.backend / f"{'-'.join(filter(None, (name, variant)))}.json"
        self.source = EngineSource(
            network, root=root, precision=self.backend.onnx_precision(wish.precision), variant=variant
        )

    @classmethod
    def open(cls, name: str, models: Path, root: Path, wish: Wish) -> "Job":
        """The job for one of NETWORKS of a model folder.

        Raises:
            UserError: the folder does not hold it, or not in this size.
        """
        from d2r_fast.export.networks import open_network

        network = open_network(
            name, models, height=wish.height, width=wish.width, lora=wish.lora and name == "unet",
            recogniser=wish.recogniser,
        )  # fmt: skip
        return cls(network, root, wish)

    @cached_property
    def key(self) -> dict[str, Any]:
        """What the engine is made of, by and for. The ONNX's digests are None while it is not there."""
        spec = self.spec
        ports = (*spec.inputs, *spec.outputs)
        return {
            "network": spec.name,
            "source": self.network.source,
            **self.source.onnx_parts(),
            "backend": spec.backend,
            "backend_version": self.backend.version(),
            "precision": spec.precision,
            "batch_size": spec.batch_size,
            "shapes": {port.name: list(port.shape) for port in ports},
            "flags": self.backend.flags(spec),
            "target": {"device": spec.device.split(":")[0], **self.backend.target(spec)},
        }

    def find(self) -> Built[EngineRecord] | str:
        """The engine if it is there as wanted, else one clause that says why it is not."""
        return find(self.root, self.sidecar, self.key, EngineRecord)

    def forget_key(self) -> None:
        """Has the key made anew, after an ONNX was exported."""
        self.__dict__.pop("key", None)


def _variant(source: Mapping[str, str]) -> str:
    size = f"{source['height']}x{source['width']}" if "height" in source and "width" in source else ""
    return "-".join(part for part in (size, "lcm" if "lora" in source else "") if part)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keeps other builders out of an engines folder; waits for one who is at it.

    Raises:
        UserError: no folder can be made there.
        RunError: its disk has no locks.
    """
    path = root / LOCK
    with disk_errors(path):
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{root} is not a folder: give --out or --engines another") from None
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{root}: another process builds engines there, waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise RunError(
                f"{root} cannot be locked ({error.strerror}): give a folder on a disk that has locks"
            ) from None
        yield
    finally:
        os.close(descriptor)
