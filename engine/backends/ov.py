"""The openvino backend: Intel's compiler for CPUs, one thread per stream."""

import queue
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2r_fast.engine.backends.network import Tensors, check_inputs, run_errors
from d2r_fast.engine.backends.spec import Backend, Source, Spec
from d2r_fast.engine.config import Precision

INSTALL = "pip install 'openvino>=2026.4,<2027'"
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"bf16": "BF16", "fp16": "FP16"}


class OpenVino(Backend):
    """OpenVINO on the CPU. It reads the float32 ONNX and compiles it when it is loaded."""

    fuses_attention = False
    loads_onnx = True
    build_copies = 2.0
    seconds_per_gigaparameter = 40.0

    def why_not(self, device: str) -> str | None:
        if device != "cpu":
            return f"runs on the CPU alone, not on {device}: give --device cpu"
        try:
            _core()
        except ImportError:
            return f"the package openvino is missing: {INSTALL}"
        return None

    def why_not_precision(self, precision: Precision, device: str) -> str | None:
        wanted = _CAPABILITIES.get(precision)
        offered = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if wanted is None or wanted in offered:
            return None
        # Where the instructions are missing OpenVINO emulates them, 20 times slower than float32.
        return f"this CPU has no {precision} instructions (OpenVINO lists {', '.join(offered)}): give fp32"

    def version(self) -> str:
        return str(import_module("openvino").__version__)

    def onnx_precision(self, precision: Precision) -> Precision | None:
        return "fp32"

    def flags(self, spec: Spec) -> dict[str, Any]:
        return {"INFERENCE_PRECISION_HINT": _HINTS[spec.precision]}

    def build(self, spec: Spec, source: Source, folder: Path) -> None:
        """Nothing to keep but the ONNX, which has to be there.

        Of the full UNet's 9 s to open, reading the ONNX is 0.2, so OpenVINO's own format would save nothing;
        a compiled blob takes longer to read, as much disk again, and serves one kind of CPU.
        """
        assert source.onnx.is_file()

    def load(self, spec: Spec, files: Mapping[str, Path], source: Source) -> "OpenVinoNetwork":
        path = next(path for path in files.values() if path.suffix == ".onnx")
        return OpenVinoNetwork(spec, path, self.flags(spec))


@cache
def _core() -> Any:
    import openvino

    core = openvino.Core()
    _take_first_steps(openvino, core)
    return core


def _take_first_steps(openvino: Any, core: Any) -> None:
    """Runs a model of one addition, alone.

    OpenVINO's Python binding fills tables of its own when first used, and does so while it lets other threads
    run: two first runs at once have waited for each other for good (2026.4.1).
    """
    ports = [openvino.opset13.parameter([1], dtype, name=dtype.__name__) for dtype in (np.float32, np.int64)]
    results = [openvino.opset13.add(port, port) for port in ports]
    request = core.compile_model(openvino.Model(results, ports, "first"), "CPU").create_infer_request()
    request.infer([np.zeros(1, np.float32), np.zeros(1, np.int64)], share_inputs=True)
    assert all(request.get_output_tensor(place).data.shape == (1,) for place in range(2))


class OpenVinoNetwork:
    """A compiled model with an infer request for each stream."""

    device = "cpu"

    def __init__(self, spec: Spec, path: Path, flags: dict[str, Any]) -> None:
        self.name, self.batch_size = spec.name, spec.batch_size
        self.inputs, self.outputs = spec.inputs, spec.outputs
        self.num_streams = torch.get_num_threads()
        with run_errors(spec.name, "openvino"):
            model = _core().read_model(path)
            model.reshape(
                {port.name: [-1 if isinstance(d, str) else d for d in port.shape] for port in spec.inputs}
            )
            # Streams beyond the number of cores are not made, and calls beyond them wait their turn. Pinned to
            # cores, two processes would sit on the same ones.
            streams = {"NUM_STREAMS": self.num_streams, "INFERENCE_NUM_THREADS": self.num_streams}
            compiled = _core().compile_model(model, "CPU", streams | {"ENABLE_CPU_PINNING": False} | flags)
            self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for _ in range(self.num_streams):
                self._requests.put(compiled.create_infer_request())

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        check_inputs(self, inputs)
        request = self._requests.get()
        try:
            with run_errors(self.name, "openvino"):
                request.infer(
                    {name: value.contiguous().numpy() for name, value in inputs.items()}, share_inputs=True
                )
                return {
                    port.name: torch.from_numpy(request.get_tensor(port.name).data.copy())
                    for port in self.outputs
                }
        finally:
            self._requests.put(request)
