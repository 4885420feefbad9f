"""The onnxruntime backends: the CPU, and on CUDA its own kernels or TensorRT through it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from d2r_fast.engine.backends.cuda import why_not_torch
from d2r_fast.engine.backends.network import Network, Tensors, check_inputs
from d2r_fast.engine.backends.ort_session import open_session, ort_errors
from d2r_fast.engine.backends.spec import Backend, Source, Spec
from d2r_fast.engine.config import Precision

INSTALL = "pip install onnxruntime-gpu in place of onnxruntime"


class Onnxruntime(Backend):
    """onnxruntime; under the name onnxruntime-tensorrt it hands the graph to its TensorRT provider."""

    fuses_attention = False
    loads_onnx = True
    build_copies = 2.0
    seconds_per_gigaparameter = 40.0

    def provider(self, device: str) -> str:
        """The execution provider that is to run the network."""
        if self.name == "onnxruntime-tensorrt":
            return "TensorrtExecutionProvider"
        return "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"

    def why_not(self, device: str) -> str | None:
        if device == "cpu" and self.name == "onnxruntime-tensorrt":
            return "it runs on CUDA alone: give --device cuda, or --backend onnxruntime"
        offered = onnxruntime.get_available_providers()
        if self.provider(device) not in offered:
            return f"onnxruntime has {', '.join(offered)} alone: {INSTALL}"
        return why_not_torch(device)

    def why_not_precision(self, precision: Precision, device: str) -> str | None:
        return "onnxruntime has few bf16 kernels: give fp32 or fp16" if precision == "bf16" else None

    def version(self) -> str:
        return str(onnxruntime.__version__)

    def onnx_precision(self, precision: Precision) -> Precision | None:
        return precision

    def flags(self, spec: Spec) -> dict[str, Any]:
        return {"provider": self.provider(spec.device)}

    def build(self, spec: Spec, source: Source, folder: Path) -> None:
        """Leaves the TensorRT provider's engines in the folder; other providers compile when they load."""
        path = source.onnx
        if self.name == "onnxruntime-tensorrt":
            from d2r_fast.engine.backends.ort_cuda import build_tensorrt

            build_tensorrt(spec, path, folder)

    def load(self, spec: Spec, files: Mapping[str, Path], source: Source) -> Network:
        path = next(path for path in files.values() if path.suffix == ".onnx")
        if spec.device == "cpu":
            return OrtNetwork(spec, path)
        from d2r_fast.engine.backends.ort_cuda import OrtCudaNetwork

        caches = [path.parent for path in files.values() if path.suffix == ".engine"]
        return OrtCudaNetwork(spec, path, self.provider(spec.device), cache=caches[0] if caches else None)


class OrtNetwork:
    """A session on the CPU, one thread per run."""

    device = "cpu"

    def __init__(self, spec: Spec, path: Path) -> None:
        self.name, self.batch_size = spec.name, spec.batch_size
        self.inputs, self.outputs = spec.inputs, spec.outputs
        self.num_streams = torch.get_num_threads()
        self._session = open_session(spec, path, "CPUExecutionProvider", {})
        self._wanted = [port.name for port in spec.outputs]

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        check_inputs(self, inputs)
        arrays = {name: value.contiguous().numpy() for name, value in inputs.items()}
        with ort_errors(self.name):
            values = self._session.run(self._wanted, arrays)
        return {name: torch.from_numpy(value) for name, value in zip(self._wanted, values, strict=True)}
