"""The inductor backend: torch.export, compiled ahead of time to one .pt2 file of machine code and weights.

A process that opens the file compiles nothing, so it starts warm. On CUDA the call is recorded as a CUDA graph.
What is run by the tests is the CPU; the CUDA path follows PyTorch's documentation and has not been run.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2r_fast.engine.backends.cuda import card, compute_exactly, why_not_torch
from d2r_fast.engine.backends.cuda_graph import CudaGraph
from d2r_fast.engine.backends.network import Tensors, check_inputs, run_errors
from d2r_fast.engine.backends.spec import DTYPES, Backend, Source, Spec
from d2r_fast.engine.backends.threads import LoneThreads
from d2r_fast.engine.backends.torch_eager import cast, name_outputs
from d2r_fast.engine.processor import processor
from d2r_fast.engine.quiet import quiet_libraries


class Inductor(Backend):
    """PyTorch's compiler, ahead of time (AOTInductor)."""

    build_copies = 3.0
    seconds_per_gigaparameter = 50.0
    seconds_per_module = 0.15

    def why_not(self, device: str) -> str | None:
        return why_not_torch(device)

    def why_not_build(self, device: str, targets: tuple[str, ...]) -> str | None:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            return f"it needs the C++ compiler {compiler}, which is not there: apt install g++"
        return why_not_torch(device)

    def why_not_network(self, name: str) -> str | None:
        if name == "pnet":
            # torch.export finds 12 pixels, P-Net's smallest image, to need another program than 13.
            return (
                "the height and width of P-Net's images are open, which it does not compile: give --networks "
                "unet,vae,encoder,arcface,rnet,onet or fewer"
            )
        return None

    def version(self) -> str:
        return torch.__version__

    def flags(self, spec: Spec) -> dict[str, Any]:
        # One thread per run on the CPU, else how a row is shared out would decide its last bits.
        return {"cpp.threads": 1} if spec.device == "cpu" else {"max_autotune": True}

    def target(self, spec: Spec) -> dict[str, Any]:
        if spec.device != "cpu":
            return card(spec.device)
        name, instructions = processor()
        return {"processor": name, "instructions": list(instructions)}

    def build(self, spec: Spec, source: Source, folder: Path) -> None:
        from torch._inductor import aoti_compile_and_package

        module = _Cast(source.network.load(), spec)
        inputs = source.network.random_inputs(spec.batch_size, seed=0)
        given = tuple(inputs[port.name].to(spec.device) for port in spec.inputs)
        compute_exactly(spec.device)
        with run_errors(spec.name, self.name), torch.no_grad(), quiet_libraries():
            program = torch.export.export(module, given)
            path = folder / "engine.pt2"
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=self.flags(spec))

    def load(self, spec: Spec, files: Mapping[str, Path], source: Source) -> "InductorNetwork":
        (path,) = files.values()
        return InductorNetwork(spec, path)


class _Cast(nn.Module):
    """A network in another arithmetic between float32 ports."""

    def __init__(self, module: nn.Module, spec: Spec) -> None:
        super().__init__()
        self._dtype: torch.dtype = getattr(torch, DTYPES[spec.precision])
        self._inputs, self._outputs = spec.inputs, spec.outputs
        self._module = module.to(device=spec.device, dtype=self._dtype)

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ready = [cast(port, value, self._dtype) for port, value in zip(self._inputs, given, strict=True)]
        return tuple(name_outputs(self._outputs, self._module(*ready)).values())


class InductorNetwork:
    """A compiled package: on the CPU a runner per thread, on CUDA a recorded graph."""

    def __init__(self, spec: Spec, path: Path) -> None:
        from torch._inductor.package.package import load_package

        self.name, self.device, self.batch_size = spec.name, spec.device, spec.batch_size
        self.inputs, self.outputs = spec.inputs, spec.outputs
        on_cpu = spec.device == "cpu"
        self.num_streams = torch.get_num_threads() if on_cpu else 1
        self._threads = LoneThreads(self.num_streams) if on_cpu else None
        compute_exactly(spec.device)
        with run_errors(spec.name, "inductor"):
            index = -1 if on_cpu else torch.device(spec.device).index
            # What hands runs to several threads asks after the last run's event, which no recording may do.
            self._package = load_package(
                str(path), run_single_threaded=not on_cpu, num_runners=self.num_streams, device_index=index
            )
            self._graph = None if on_cpu else CudaGraph(spec.inputs, self._run, device=spec.device)

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        check_inputs(self, inputs)
        with run_errors(self.name, "inductor"):
            if self._threads:
                return self._threads.run(lambda: self._run(inputs))
            return self._graph(inputs) if self._graph else self._run(inputs)

    @torch.no_grad()
    def _run(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        return name_outputs(self.outputs, self._package(*(inputs[port.name] for port in self.inputs)))
