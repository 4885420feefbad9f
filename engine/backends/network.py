"""A compiled network: named tensors in, named tensors out, a fixed number of rows at a time."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from d2r_fast.engine.batch import fixed_batches
from d2r_fast.engine.errors import RunError

Dim = int | str
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a network, batch first.

    A size that is a name is open: "batch", and in P-Net "height" and "width". Floating ports are float32
    whatever the network computes in, whole numbers are int64.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[Dim, ...]

    def at(self, batch_size: int) -> "Port":
        """This port with the batch decided."""
        return Port(self.name, self.dtype, tuple(batch_size if d == "batch" else d for d in self.shape))

    def takes(self, value: torch.Tensor) -> bool:
        """Whether a tensor has the port's dtype and, where they are decided, its sizes."""
        return (
            value.dtype == self.dtype
            and value.ndim == len(self.shape)
            and all(isinstance(d, str) or d == n for d, n in zip(self.shape, value.shape, strict=True))
        )


class Network(Protocol):
    """A network compiled for a fixed batch, its weights and buffers on its device.

    On the CPU a run computes on one thread, so `num_streams` of them go on at once, called from that many
    threads. On CUDA runs follow each other on the caller's current stream.
    """

    @property
    def name(self) -> str:
        """What the network is called in messages: unet, vae, ..."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Every size is decided but P-Net's height and width."""

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Likewise."""

    @property
    def batch_size(self) -> int:
        """Rows of one run."""

    @property
    def num_streams(self) -> int:
        """Runs that may go on at once: the number of threads on the CPU, 1 on CUDA."""

    @property
    def device(self) -> str:
        """Where inputs are expected and outputs lie: cpu or cuda:N."""

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Runs exactly `batch_size` rows.

        On CUDA the outputs may be the network's own buffers, valid until its next call.

        Raises:
            RunError: the backend failed; the line names the network.
        """


class Rows:
    """A network for any number of rows: cut into its batches, spread over its streams.

    The last batch is filled up by repeating its last row. On the CPU, where a batch is one row, a row's bits
    depend on neither its neighbours, its place, nor the number of threads.

    Args:
        network: what runs the batches.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._streams = ThreadPoolExecutor(network.num_streams) if network.num_streams > 1 else None

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Runs M >= 1 rows.

        Args:
            inputs: name -> (M, ...) as the network's ports, on its device.

        Returns:
            name -> (M, ...) float32, tensors of their own.

        Raises:
            RunError: the backend failed.
        """
        network = self.network
        assert set(inputs) == {port.name for port in network.inputs}, sorted(inputs)
        batches = list(fixed_batches(len(next(iter(inputs.values()))), network.batch_size))
        assert batches, "no rows"

        def run(batch: tuple[torch.Tensor, int]) -> dict[str, torch.Tensor]:
            rows, kept = batch
            outputs = network({name: take(value, rows) for name, value in inputs.items()})
            return {name: value[:kept].clone() for name, value in outputs.items()}

        pieces = list(self._streams.map(run, batches) if self._streams else map(run, batches))
        return {port.name: torch.cat([piece[port.name] for piece in pieces]) for port in network.outputs}


def take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """These rows of values (M, ...); without a copy, or a wait for the card, where they are all of them in order."""
    if len(rows) == len(values):
        return values
    return values[rows.to(values.device, non_blocking=True)]


def check_inputs(network: Network, inputs: Tensors) -> None:
    """Asserts that a call has exactly the network's inputs, in their dtypes and shapes."""
    for port in network.inputs:
        value = inputs[port.name]
        assert port.takes(value), f"{network.name}: {port} given {value.dtype} {tuple(value.shape)}"


@contextmanager
def run_errors(name: str, backend: str) -> Iterator[None]:
    """Turns what a backend raises into one line that names the network.

    Raises:
        RunError: in place of any RuntimeError, which is what the libraries raise.
    """
    try:
        yield
    except RunError:
        raise
    except RuntimeError as error:
        reason = first_line(error)
        advice = ": give a smaller --batch-size" if "memory" in reason.lower() else ""
        raise RunError(f"{name} failed in {backend} ({reason}){advice}") from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line: its first line with words in it."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
