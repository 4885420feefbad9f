"""A network that engines are built of: its ports, what it is made of, its float32 reference and its graph."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import torch
from onnxscript import ir
from torch import Tensor, nn

from d2r_fast.engine.backends.network import Port, first_line
from d2r_fast.engine.config import Precision
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.export.graph import DynamicAxes, trace
from d2r_fast.export.rows import keep_rows

EXPORT_VERSION = 1
"""Of the graphs that this package writes: one more where the same weights come to give another graph."""

Draw = Callable[[tuple[int, ...], torch.Generator], Tensor]
"""One row of a random input, of this shape."""


@dataclass(frozen=True)
class Exportable(ABC):
    """One network of a model folder, not loaded until something of it is asked for.

    Attributes:
        name: unet, vae, encoder, arcface, pnet, rnet or onet.
        inputs, outputs: in the order of the module's arguments and results. Sizes that are names are dynamic.
        files: what it is made of, name -> path.
        settings: what else decides the graph.
        draws: input -> how a plausible row is drawn.
        float32: whether it computes in float32 whatever is asked for: its outputs decide between things that nearly
            tie.
        in_rows: whether its graph keeps maps as rows (export/rows.py), for a batch of one.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    files: Mapping[str, Path]
    settings: Mapping[str, str]
    draws: Mapping[str, Draw]
    float32: bool = field(default=False, kw_only=True)
    in_rows: bool = field(default=False, kw_only=True)

    def arithmetic(self, wanted: Precision) -> Precision:
        """What the network computes in where this is asked for."""
        return "fp32" if self.float32 else wanted

    def on(self, device: str, precision: Precision) -> "Exportable":
        """The same function as it is computed there: another graph where one is faster, most often this one.

        Args:
            device: "cpu", "cuda:N" or "cuda".
            precision: what it is computed in, as `arithmetic` gives it.
        """
        return self

    @cached_property
    def source(self) -> dict[str, str]:
        """What the network is made of: file -> SHA-256, then settings and versions. Other source, other engine.

        Raises:
            UserError: a file is missing.
        """
        digests = {name: _digest(path) for name, path in self.files.items()}
        ports = "; ".join(
            f"{port.name} {'x'.join(map(str, port.shape))}" for port in (*self.inputs, *self.outputs)
        )
        versions = {"torch": torch.__version__, "export": str(EXPORT_VERSION)}
        return digests | dict(self.settings) | {"ports": ports} | versions

    @cached_property
    def module(self) -> nn.Module:
        """The network in eval mode, float32, on the CPU: shared, so not to be changed or moved.

        Raises:
            UserError: the model folder's files do not do.
        """
        return self.load()

    @abstractmethod
    def load(self) -> nn.Module:
        """A module as `module`, but the caller's own.

        Raises:
            UserError: as there.
        """

    def reference(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The float32 outputs for any number of rows, on the CPU, by an implementation that is not ours.

        Row by row: in batches torch's convolutions sum otherwise, and the full VAE at 256 pixels is then 6e-6 from
        float64 (relative L2), where single rows are 7e-7.

        Raises:
            UserError: as for `module`.
        """
        num_rows = len(inputs[self.inputs[0].name])
        rows = [
            self.reference_row({name: value[row : row + 1] for name, value in inputs.items()})
            for row in range(num_rows)
        ]
        return {port.name: torch.cat([row[port.name] for row in rows]) for port in self.outputs}

    @abstractmethod
    def reference_row(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `reference`, for one row."""

    @abstractmethod
    def graph(self) -> ir.Model:
        """The float32 graph, the caller's to change, with the ports' names and dynamic sizes.

        Raises:
            UserError: as for `module`, or a network that cannot be expressed.
        """

    def random_inputs(
        self, batch_size: int, *, seed: int, height: int = 60, width: int = 44
    ) -> dict[str, Tensor]:
        """Inputs in the ranges that the network meets; a row depends on the seed and its place alone.

        Args:
            batch_size: number of rows.
            seed: 0 or more.
            height, width: for P-Net, whose ports name them; the others' sizes are decided.
        """
        sizes = {"height": height, "width": width}
        rows: dict[str, list[Tensor]] = {port.name: [] for port in self.inputs}
        for row in range(batch_size):
            generator = torch.Generator().manual_seed((seed << 20) + row)
            for port in self.inputs:
                shape = tuple(sizes[size] if isinstance(size, str) else size for size in port.shape[1:])
                rows[port.name].append(self.draws[port.name](shape, generator))
        return {name: torch.stack(values) for name, values in rows.items()}


@dataclass(frozen=True)
class TorchExportable(Exportable):
    """A network that is a torch module here.

    Attributes:
        make: loads the module; its forward takes and gives the ports in order.
        dynamic_axes: input -> axis -> torch.export.Dim.
        wide: whether wide convolutions are most of it: on a CPU in float32 its graph keeps maps as rows then.
    """

    make: Callable[[], nn.Module]
    dynamic_axes: DynamicAxes = field(repr=False)
    wide: bool = field(default=False, kw_only=True)

    def on(self, device: str, precision: Precision) -> "TorchExportable":
        if not self.wide or self.in_rows or (device, precision) != ("cpu", "fp32"):
            return self
        return replace(self, in_rows=True, settings={**self.settings, "convolutions": "rows"})

    def load(self) -> nn.Module:
        return self.make().eval().requires_grad_(False)

    @torch.inference_mode()
    def reference_row(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for parameter in self.module.parameters():
            changed = (parameter.dtype, parameter.device.type) != (torch.float32, "cpu")
            assert not changed, (
                f"{self.name}: the shared module was changed; take one of your own from load()"
            )
        values = self.module(*(inputs[port.name] for port in self.inputs))
        return dict(
            zip(
                (port.name for port in self.outputs),
                [values] if isinstance(values, Tensor) else values,
                strict=True,
            )
        )

    def graph(self) -> ir.Model:
        example = self.random_inputs(2, seed=0)
        try:
            graph = trace(
                self.module,
                example,
                outputs=[port.name for port in self.outputs],
                dynamic_axes=self.dynamic_axes,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = first_line(error.__cause__ or error)
            raise UserError(
                f"{self.name} of {next(iter(self.files.values())).parent} cannot be written as ONNX ({reason}): "
                "give weights as they were released, or --backend torch"
            ) from error
        if self.in_rows:
            keep_rows(graph)
        return graph


def _digest(path: Path) -> str:
    try:
        status = path.stat()
        return _cached_digest(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a folder from `d2r-fast models pull` or `models init`"
        ) from None


@cache
def _cached_digest(path: Path, *_: int) -> str:
    """A process opens the same gigabytes for several engines."""
    return sha256_file(path)
