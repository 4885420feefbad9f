"""The CUDA device as backends see it: whether torch can use one, which card it is, which driver runs it."""

import ctypes
from typing import Any

import torch


def why_not_torch(device: str) -> str | None:
    """Why torch cannot run on the device; None where it can."""
    if device == "cpu" or torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "torch is a CPU build: pip install torch from PyTorch's CUDA index"
    return f"torch is built for CUDA {torch.version.cuda} but finds no device: see nvidia-smi"


def card(device: str) -> dict[str, Any]:
    """Name and compute capability of the card, for keys; empty on the CPU."""
    if device == "cpu":
        return {}
    major, minor = torch.cuda.get_device_capability(device)
    return {"card": torch.cuda.get_device_name(device), "sm": f"sm{major}{minor}"}


def driver() -> int:
    """CUDA version that the driver supports, as 1000 major + 10 minor."""
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def new_stream(device: str) -> torch.cuda.Stream:
    """A stream beside the default one, on which libraries neither wait for others nor refuse to be recorded."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def compute_exactly(device: str) -> None:
    """Has cuDNN compute float32 as float32, which by default it rounds to TF32, and choose without timing.

    For the whole process and for good: the setting is the process's, and threads that switched it on and off around
    their own work would do so in the midst of each other's. Nothing on the CPU.
    """
    if device != "cpu":
        cudnn = torch.backends.cudnn
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, True, False
