"""What a measurement was taken on: processor, card, versions, revision."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

import d2r_fast
from d2r_fast.engine.processor import processor

PACKAGES = (
    "torch", "diffusers", "transformers", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "tensorrt_rtx", "triton", "numpy",
)  # fmt: skip
_CLOCKS = "clocks.sm,power.draw,temperature.gpu"


def describe_machine(device: str) -> dict[str, Any]:
    """Processor and, on CUDA, the card, as JSON. What cannot be found out is None."""
    name, instructions = processor()
    found = {
        "device": device,
        "cpu": name,
        "num_cores": len(os.sched_getaffinity(0)),
        "num_threads": torch.get_num_threads(),
        "instructions": list(instructions),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "gpu": None,
    }
    if device.startswith("cuda"):
        card = torch.cuda.get_device_properties(device)
        found["gpu"] = {
            "name": card.name,
            "capability": f"{card.major}.{card.minor}",
            "memory_gib": round(card.total_memory / 2**30, 1),
            "num_multiprocessors": card.multi_processor_count,
            "driver": _smi("driver_version", device),
            "power_limit_w": _smi("power.limit", device),
            "clock_limit_mhz": _smi("clocks.max.sm", device),
        }
    return found


def describe_versions() -> dict[str, str]:
    """Installed versions of what computes, and of this program."""
    versions = {"d2r-fast": d2r_fast.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def revision() -> str | None:
    """The git commit of the source, with "+" where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    commit = _output(["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"])
    if commit is None:
        return None
    return commit + ("+" if _output(["git", "-C", str(here), "status", "--porcelain"]) else "")


class CardLog:
    """Clock, power and temperature of a card while a block runs, twice a second; nothing on a CPU.

    Attributes:
        summary: afterwards, name -> lowest, median and highest; None where nvidia-smi is not there.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._process: subprocess.Popen[str] | None = None
        self.summary: dict[str, dict[str, float]] | None = None

    def __enter__(self) -> Self:
        if self._device.startswith("cuda"):
            command = [*_smi_command(_CLOCKS, self._device), "--loop-ms=500"]
            try:
                self._process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
            except FileNotFoundError:
                self._process = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            lines, _ = self._process.communicate()
            self.summary = summarise_clocks(lines)


def summarise_clocks(lines: str) -> dict[str, dict[str, float]] | None:
    """Lowest, median and highest of each column of nvidia-smi's lines; None where there is no whole line."""
    rows = [
        [float(value) for value in line.split(",")]
        for line in lines.splitlines()
        if line.count(",") == 2 and all(_is_number(value) for value in line.split(","))
    ]
    if not rows:
        return None
    names = ("sm_clock_mhz", "power_w", "temperature_c")
    return {
        name: {"low": min(column), "median": float(np.median(column)), "high": max(column)}
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdigit()


def _smi_command(query: str, device: str) -> list[str]:
    # By uuid: nvidia-smi counts all cards, CUDA those it is shown.
    card = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    return ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", card]


def _smi(query: str, device: str) -> str | None:
    return _output(_smi_command(query, device))


def _output(command: list[str]) -> str | None:
    """What a program prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
