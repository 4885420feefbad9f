"""A network of a few layers with the ports of a UNet, for tests of what is done with networks of any kind.

It has what adds up over many values (convolution, group norm, attention, a linear layer), at sizes where
libraries share one row out over several threads.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.backends.spec import Spec
from d2r_fast.export.exportable import Exportable, TorchExportable
from d2r_fast.export.graph import BATCH
from d2r_fast.export.unet import normal


class TinyUNet(nn.Module):
    """(N, 4, h, w), (N,) and (N, 7, 16) to (N, 4, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 64, 3, padding=1)
        self.norm = nn.GroupNorm(8, 64)
        self.time = nn.Linear(1, 64)
        self.key = nn.Linear(16, 64)
        self.last = nn.Conv2d(64, 4, 3, padding=1)

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        time = self.time(timesteps[:, None].to(latents.dtype) / 1000)
        hidden = nn.functional.silu(self.norm(self.first(latents))) + time[:, :, None, None]
        key = self.key(context)
        query = hidden.flatten(2).transpose(1, 2)
        attended = torch.softmax(query @ key.transpose(1, 2) / 8, -1) @ key
        hidden = hidden + attended.transpose(1, 2).unflatten(2, hidden.shape[2:])
        noise: torch.Tensor = self.last(hidden)
        return noise


def make_module(seed: int) -> TinyUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyUNet()


def tiny_network(folder: Path, *, seed: int = 0, side: int = 32) -> TorchExportable:
    """It, as export.networks opens networks, made of a file in the folder that says its seed."""
    file = folder / "tiny.seed"
    file.write_text(str(seed))
    inputs = (
        Port("latents", torch.float32, ("batch", 4, side, side)),
        Port("timesteps", torch.int64, ("batch",)),
        Port("context", torch.float32, ("batch", 7, 16)),
    )
    return TorchExportable(
        name="unet",
        inputs=inputs,
        outputs=(Port("noise", torch.float32, ("batch", 4, side, side)),),
        files={"tiny.seed": file},
        settings={"height": str(8 * side), "width": str(8 * side)},
        draws={"latents": normal, "timesteps": _timestep, "context": normal},
        make=partial(make_module, seed),
        dynamic_axes={port.name: {0: BATCH} for port in inputs},
    )


def _timestep(_: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(1000, (), generator=generator)


def tiny_spec(network: Exportable, backend: str, *, precision: str = "fp32", batch_size: int = 1) -> Spec:
    """How the network is compiled for the CPU."""
    return Spec(
        name=network.name, backend=backend, precision=precision, batch_size=batch_size, device="cpu", targets=(),
        inputs=tuple(port.at(batch_size) for port in network.inputs),
        outputs=tuple(port.at(batch_size) for port in network.outputs),
    )  # fmt: skip


@dataclass(frozen=True)
class TinySource:
    """Where a backend finds the module and the ONNX."""

    network: Exportable
    onnx: Path
