"""onnxruntime on CUDA with IO binding: inputs and outputs stay on the card, in buffers bound once.

Written after onnxruntime's documentation of IO binding, CUDA graphs and provider options; not run yet, since
that needs a card.
"""

from pathlib import Path

import numpy as np
import torch

from d2r_fast.engine.backends.cuda import new_stream
from d2r_fast.engine.backends.cuda_graph import is_static, make_buffer
from d2r_fast.engine.backends.network import Port, Tensors, check_inputs
from d2r_fast.engine.backends.ort_session import open_session, ort_errors
from d2r_fast.engine.backends.spec import Spec

_ELEMENTS = {torch.float32: np.float32, torch.int64: np.int64}
TENSORRT = "TensorrtExecutionProvider"


def build_tensorrt(spec: Spec, path: Path, folder: Path) -> None:
    """Has the TensorRT provider compile the graph and leave its engines in the folder.

    Raises:
        UserError, RunError: as `open_session`.
    """
    open_session(spec, path, TENSORRT, _settings(spec, TENSORRT, None, folder))


def _settings(
    spec: Spec, provider: str, stream: torch.cuda.Stream | None, cache: Path | None
) -> dict[str, str]:
    settings = {"device_id": str(torch.device(spec.device).index)}
    if stream is not None:
        settings["user_compute_stream"] = str(stream.cuda_stream)
    # No CUDA graphs: onnxruntime records one in whichever thread runs first, while others use the card, which
    # ends the recording.
    if provider != TENSORRT:
        # The default search picks convolutions by timing them, so that two runs may compute differently.
        return settings | {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    prefix = f"{spec.name}-{spec.precision}-b{spec.batch_size}"
    return settings | {
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache), "trt_engine_cache_prefix": prefix,
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(cache),
    }  # fmt: skip


class OrtCudaNetwork:
    """A session on CUDA or TensorRT, on a stream of its own that waits for the caller's and it for that."""

    num_streams = 1

    def __init__(self, spec: Spec, path: Path, provider: str, *, cache: Path | None) -> None:
        self.name, self.device, self.batch_size = spec.name, spec.device, spec.batch_size
        self.inputs, self.outputs = spec.inputs, spec.outputs
        self._stream = new_stream(spec.device)
        self._session = open_session(spec, path, provider, _settings(spec, provider, self._stream, cache))
        self._static = is_static((*spec.inputs, *spec.outputs))
        self._binding = self._session.io_binding()
        if self._static:
            self._given = {port.name: make_buffer(port, spec.device) for port in spec.inputs}
            self._results = {port.name: make_buffer(port, spec.device) for port in spec.outputs}
            for name, buffer in self._given.items():
                self._bind_input(name, buffer)
            for name, buffer in self._results.items():
                self._binding.bind_output(
                    name, "cuda", torch.device(self.device).index, _ELEMENTS[buffer.dtype], tuple(buffer.shape),
                    buffer.data_ptr(),
                )  # fmt: skip

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        check_inputs(self, inputs)
        caller = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream), ort_errors(self.name):
            results = self._run_bound(inputs) if self._static else self._run_open(inputs)
        caller.wait_stream(self._stream)
        return results

    def _run_bound(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        for name, buffer in self._given.items():
            buffer.copy_(inputs[name], non_blocking=True)
        self._session.run_with_iobinding(self._binding)
        return self._results

    def _run_open(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """With sizes that are known at the call: P-Net, whose outputs are small and come by way of the CPU."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        given = {name: value.contiguous() for name, value in inputs.items()}
        for name, value in given.items():
            self._bind_input(name, value)
        for port in self.outputs:
            self._binding.bind_output(port.name, "cpu")
        self._session.run_with_iobinding(self._binding)
        return dict(zip(_names(self.outputs), self._fetch(), strict=True))

    def _fetch(self) -> list[torch.Tensor]:
        return [torch.from_numpy(value).to(self.device) for value in self._binding.copy_outputs_to_cpu()]

    def _bind_input(self, name: str, value: torch.Tensor) -> None:
        self._binding.bind_input(
            name, "cuda", torch.device(self.device).index, _ELEMENTS[value.dtype], tuple(value.shape),
            value.data_ptr(),
        )  # fmt: skip


def _names(ports: tuple[Port, ...]) -> list[str]:
    return [port.name for port in ports]
