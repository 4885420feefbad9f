"""The torch backend: the network module by module, as PyTorch runs it. The reference for all others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2r_fast.engine.backends.cuda import compute_exactly, why_not_torch
from d2r_fast.engine.backends.network import Port, Tensors, check_inputs, run_errors
from d2r_fast.engine.backends.spec import DTYPES, Backend, Source, Spec
from d2r_fast.engine.backends.threads import LoneThreads


class TorchEager(Backend):
    """PyTorch, eagerly. It keeps no file: weights come from the model folder each time."""

    seconds_per_gigaparameter = 15.0

    def why_not(self, device: str) -> str | None:
        return why_not_torch(device)

    def version(self) -> str:
        return torch.__version__

    def flags(self, spec: Spec) -> dict[str, Any]:
        return {"channels_last": spec.device != "cpu"}

    def build(self, spec: Spec, source: Source, folder: Path) -> None:
        """Nothing to compile."""

    def load(self, spec: Spec, files: Mapping[str, Path], source: Source) -> "TorchNetwork":
        shared = spec.device == "cpu" and spec.precision == "fp32"  # then nothing of it is changed
        return TorchNetwork(spec, source.network.module if shared else source.network.load())


class TorchNetwork:
    """A torch module as a network.

    On the CPU each run has one thread of its own. On CUDA weights are channels last, the layout in which tensor
    cores take convolutions; that it wins there has not been measured.
    """

    def __init__(self, spec: Spec, module: nn.Module) -> None:
        self.name, self.device, self.batch_size = spec.name, spec.device, spec.batch_size
        self.inputs, self.outputs = spec.inputs, spec.outputs
        self._dtype: torch.dtype = getattr(torch, DTYPES[spec.precision])
        self._threads = LoneThreads(torch.get_num_threads()) if spec.device == "cpu" else None
        self.num_streams = torch.get_num_threads() if self._threads else 1
        compute_exactly(spec.device)
        with run_errors(spec.name, "torch"):
            self._module = module.to(device=spec.device, dtype=self._dtype)
            if spec.device != "cpu":
                self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        check_inputs(self, inputs)
        with run_errors(self.name, "torch"):
            if self._threads:
                return self._threads.run(lambda: self._run(inputs))
            return self._run(inputs)

    @torch.no_grad()
    def _run(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        given = [cast(port, inputs[port.name], self._dtype) for port in self.inputs]
        return name_outputs(self.outputs, self._module(*given))


def cast(port: Port, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An input in the arithmetic of the network; whole numbers stay what they are."""
    return value.to(dtype) if port.dtype.is_floating_point else value


def name_outputs(ports: tuple[Port, ...], values: Any) -> dict[str, torch.Tensor]:
    """A module's results (one tensor, or a list of them) by the names of its ports, in their dtypes."""
    listed = [values] if isinstance(values, torch.Tensor) else values
    return {port.name: value.to(port.dtype) for port, value in zip(ports, listed, strict=True)}
