"""A TensorRT engine on its card: torch's buffers, the caller's stream, a CUDA graph around it.

Written after NVIDIA's documentation; not run yet, since that needs a card.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from d2r_fast.engine.backends.cuda_graph import CudaGraph, is_static, make_buffer
from d2r_fast.engine.backends.network import Tensors, check_inputs, run_errors
from d2r_fast.engine.backends.spec import Spec
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import write_atomic


class TrtNetwork:
    """An engine and its execution context.

    Where all sizes are decided, inputs and outputs are buffers that the network owns and runs replay a CUDA
    graph. P-Net's sizes come with each call, its outputs are new tensors.
    """

    num_streams = 1

    def __init__(self, spec: Spec, path: Path, library: str) -> None:
        self.name, self.device, self.batch_size = spec.name, spec.device, spec.batch_size
        self.inputs, self.outputs = spec.inputs, spec.outputs
        trt = import_module(library)
        self._log = _collecting_logger(trt)
        with torch.cuda.device(spec.device), run_errors(spec.name, library):
            self._runtime = trt.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise UserError(
                    f"{path} cannot be opened by {library} {trt.__version__} on "
                    f"{torch.cuda.get_device_name(spec.device)} ({self._log.last}): build it again by "
                    "`d2r-fast build-engines`"
                )
            self._context, cache = self._make_context(path)
            self._results = {}
            self._graph = None
            if is_static(spec.inputs):
                self._results = {port.name: make_buffer(port, spec.device) for port in spec.outputs}
                self._graph = CudaGraph(spec.inputs, self._enqueue, device=spec.device)
            if cache is not None:
                write_atomic(path.with_suffix(".jit"), bytes(cache.serialize()))

    def _make_context(self, path: Path) -> tuple[Any, Any]:
        """The context, and TensorRT for RTX's cache of kernels compiled on this card, filled from the last time.

        A cache that is of another driver or card is not taken and compiled anew.
        """
        cache = None
        if hasattr(self._engine, "create_runtime_config"):
            config = self._engine.create_runtime_config()
            cache = config.create_runtime_cache() if hasattr(config, "create_runtime_cache") else None
            if cache is not None:
                kept = path.with_suffix(".jit")
                if kept.is_file():
                    cache.deserialize(kept.read_bytes())
                config.set_runtime_cache(cache)
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise RunError(f"{self.name} failed to start ({self._log.last}): give a smaller --batch-size")
        return context, cache

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        check_inputs(self, inputs)
        with torch.cuda.device(self.device), run_errors(self.name, "TensorRT"):
            return self._graph(inputs) if self._graph else self._enqueue(inputs)

    def _enqueue(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        context = self._context
        given = {name: value.contiguous() for name, value in inputs.items()}
        for name, value in given.items():
            if not context.set_input_shape(name, tuple(value.shape)):
                raise RunError(
                    f"{self.name}: {name} of {tuple(value.shape)} is not what its engine was built for"
                )
            context.set_tensor_address(name, value.data_ptr())
        results = self._results or {
            port.name: torch.empty(tuple(context.get_tensor_shape(port.name)), device=self.device)
            for port in self.outputs
        }
        for name, value in results.items():
            context.set_tensor_address(name, value.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RunError(f"{self.name} failed in TensorRT ({self._log.last})")
        return results


def _collecting_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the last error and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = message.splitlines()[0] if message else self.last

    return Log()
