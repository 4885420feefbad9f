"""What is asked of engines on the command line, checked before any work is done."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends.spec import DTYPES
from d2r_fast.engine.config import Precision
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import UserError

NETWORKS = ("unet", "vae", "encoder", "arcface", "pnet", "rnet", "onet")
GROUPS = {"detector": ("pnet", "rnet", "onet")}
"""Names on the command line that stand for several networks."""
AHEAD_OF_TIME = ("tensorrt", "tensorrt-rtx")


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

    def checked(self, networks: Iterable[str] = ()) -> "Wish":
        """This wish with its device found, once all of it is known to be possible for these networks.

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
        no_build = backend.why_not_build(device, self.targets)
        if no_build is not None and backend.why_not(device) is not None:
            raise UserError(f"backend {self.backend}: {no_build}")
        no_precision = backend.why_not_precision(self.precision, device)
        if no_precision is not None:
            raise UserError(f"backend {self.backend} in {self.precision}: {no_precision}")
        for name in networks:
            no_network = backend.why_not_network(name)
            if no_network is not None:
                raise UserError(f"backend {self.backend} for {name}: {no_network}")
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
