"""The tensorrt and tensorrt-rtx backends: one module for TensorRT 10 and 11 and TensorRT for RTX 1.7.

They share their Python API. Networks are strongly typed: precision lives in the ONNX, and no precision flag is
ever touched. TensorRT for RTX builds ahead of time without a card, for several compute capabilities in one
engine, and compiles its kernels where it is opened; TensorRT builds on the card that it is for.

Building with TensorRT for RTX, and what it says where no card is, is run by the tests. Running engines, and
everything of TensorRT itself, is written after NVIDIA's documentation and has not been run.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from d2r_fast.engine.backends.cuda import card, driver
from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.backends.spec import Backend, Source, Spec
from d2r_fast.engine.config import Precision
from d2r_fast.engine.errors import RunError, UserError

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
INSTALL = {"tensorrt": "pip install 'd2r-fast[gpu]'", "tensorrt-rtx": "pip install 'd2r-fast[tensorrt-rtx]'"}
NO_FP32 = "sm75"
"""Turing, for which TensorRT for RTX 1.7 compiles no float32 matrix product."""
OPEN_SIZES = (12, 320, 2048)
"""Smallest, usual and largest height and width of P-Net's images."""


class TensorRT(Backend):
    """TensorRT or TensorRT for RTX, by name."""

    build_copies = 4.0
    seconds_per_gigaparameter = 40.0

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._library = LIBRARIES[name]

    def why_not(self, device: str) -> str | None:
        if find_spec(self._library) is None:
            return f"the package {self._library} is missing: {INSTALL[self.name]}"
        if device == "cpu":
            return "it runs on CUDA alone: give --device cuda"
        if not torch.cuda.is_available():
            return "there is no CUDA device here"
        return None

    def why_not_build(self, device: str, targets: tuple[str, ...]) -> str | None:
        if find_spec(self._library) is None:
            return f"the package {self._library} is missing: {INSTALL[self.name]}"
        if self.name == "tensorrt":
            return self.why_not(device)
        offered = self.targets()
        unknown = [target for target in targets if target not in offered]
        if unknown:
            return f"it cannot build for {unknown[0]!r}: give --targets some of {','.join(offered)}"
        if not targets and device != "cuda" and card(device)["sm"] not in offered:
            found = card(device)
            return (
                f"{found['card']} is {found['sm']}, it builds for {', '.join(offered)} alone: take tensorrt"
            )
        return None

    def why_not_precision(self, precision: Precision, device: str) -> str | None:
        there = self.name == "tensorrt-rtx" and device.startswith("cuda:")
        if there and precision == "fp32" and card(device)["sm"] == NO_FP32:
            return f"it multiplies no float32 on {NO_FP32} (Turing): take another backend there"
        return None

    def targets(self, precision: Precision | None = None) -> tuple[str, ...]:
        """The compute capabilities that engines can be built for ahead of time, as sm89: all, or those that can take
        networks of this arithmetic."""
        names = import_module(self._library).ComputeCapability.__members__
        offered = tuple(name.lower() for name in names if name.startswith("SM"))
        return tuple(name for name in offered if precision != "fp32" or name != NO_FP32)

    def version(self) -> str:
        return installed_version(self._library)

    def onnx_precision(self, precision: Precision) -> Precision | None:
        return precision

    def flags(self, spec: Spec) -> dict[str, Any]:
        return {"tf32": False} | ({"open_sizes": list(OPEN_SIZES)} if spec.name == "pnet" else {})

    def target(self, spec: Spec) -> dict[str, Any]:
        if self.name == "tensorrt-rtx":
            return {"targets": self._targets(spec)}
        return card(spec.device) | {"driver": driver()}

    def _targets(self, spec: Spec) -> list[str]:
        """As wished for, else the card's, else all there are.

        Raises:
            UserError: one of them cannot take the network's arithmetic, which in some networks is float32 though fp16
                was asked for.
        """
        offered = self.targets(spec.precision)
        here = (card(spec.device)["sm"],) if spec.device != "cuda" else offered
        wished = sorted(spec.targets or here)
        if NO_FP32 in wished and NO_FP32 not in offered:
            other = f"build for some of {','.join(offered)}" if spec.targets else "take another backend"
            raise UserError(
                f"{spec.name} computes in float32, which {self.name} does not multiply on {NO_FP32} (Turing): {other}"
            )
        return wished

    def build(self, spec: Spec, source: Source, folder: Path) -> None:
        plan, log = folder / "engine.plan", folder / "engine.log"
        caches = folder.parent / f"timing-{self.version()}.cache"
        targets = self._targets(spec) if self.name == "tensorrt-rtx" else []
        task = {
            "parent": os.getpid(),
            "library": self._library,
            "onnx": str(source.onnx),
            "plan": str(plan),
            "timing_cache": str(caches) if self.name == "tensorrt" else None,
            "targets": [target.upper() for target in targets],
            "shapes": {port.name: shape_range(port) for port in spec.inputs},
        }
        command = [sys.executable, "-m", "d2r_fast.engine.backends.trt_builder"]
        with log.open("wb") as output:
            done = subprocess.run(
                command, input=json.dumps(task).encode(), stdout=output, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode != 0:
            kept = folder.parent / f"{spec.name}-{spec.precision}-b{spec.batch_size}.failed.log"
            log.replace(kept)
            raise RunError(
                f"{spec.name} failed in {self.name} ({_why(done.returncode, kept)}): its log is {kept}"
            )

    def load(self, spec: Spec, files: Mapping[str, Path], source: Source) -> Any:
        from d2r_fast.engine.backends.trt_network import TrtNetwork

        (path,) = (path for path in files.values() if path.suffix == ".plan")
        if self.why_not(spec.device) is not None:
            raise UserError(f"{path} cannot be opened: {self.why_not(spec.device)}")
        return TrtNetwork(spec, path, self._library)


def shape_range(port: Port) -> list[list[int]]:
    """Smallest, usual and largest shape of an input; all the same where every size is decided."""
    return [[size if isinstance(size, int) else open_size for size in port.shape] for open_size in OPEN_SIZES]


def _why(status: int, log: Path) -> str:
    """What ended the builder: a signal, or the last error in its log."""
    if status < 0:
        hint = ", which Linux sends where memory runs out" if status == -9 else ""
        return f"its builder was ended by signal {-status}{hint}"
    errors = [
        line for line in log.read_text(errors="replace").splitlines() if "[E]" in line or "Error" in line
    ]
    return errors[-1].strip()[:300] if errors else f"its builder ended with status {status}"
