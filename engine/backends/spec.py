"""What is asked of a backend: which network, in which arithmetic and shapes, for which device."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from d2r_fast.engine.backends.cuda import card
from d2r_fast.engine.backends.network import Network, Port
from d2r_fast.engine.config import Precision

if TYPE_CHECKING:
    from d2r_fast.export.networks import Exportable

DTYPES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Precision -> the name of torch's dtype."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A network as it is to be compiled.

    Attributes:
        name: unet, vae, encoder, arcface, pnet, rnet or onet.
        backend: its name on the command line.
        precision: fp32, bf16 or fp16: what the network computes in; its ports stay float32.
        batch_size: rows of one run; 1 on the CPU.
        device: "cpu", "cuda:N", or "cuda" for engines that are built for a card which is not here.
        targets: compute capabilities to build for, as "sm89"; empty: the device's own.
        inputs, outputs: the ports with the batch decided.
    """

    name: str
    backend: str
    precision: Precision
    batch_size: int
    device: str
    targets: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class Backend(ABC):
    """What compiles and runs networks. Its library is imported when it is first asked something.

    Attributes:
        fuses_attention: whether attention runs without a table of all its scores in memory.
        loads_onnx: whether loading needs the ONNX files.
        build_copies: how often the weights lie in main memory at once while it compiles, at most.
        seconds_per_gigaparameter, seconds_per_module: how long a build takes, for the estimate beforehand.
        name: on the command line.
    """

    fuses_attention = True
    loads_onnx = False
    build_copies: float = 1
    seconds_per_gigaparameter: float
    seconds_per_module: float = 0

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def why_not(self, device: str) -> str | None:
        """Why networks cannot run on "cpu" or "cuda:N" here, with what to install; None where they can."""

    def why_not_build(self, device: str, targets: tuple[str, ...]) -> str | None:
        """Why engines for that device or those compute capabilities cannot be built here; None if they can."""
        return self.why_not(device)

    def why_not_precision(self, precision: Precision, device: str) -> str | None:
        """Why this arithmetic is not offered on that device; None where it is."""
        return None

    def why_not_network(self, name: str) -> str | None:
        """Why this network cannot be compiled; None where it can."""
        return None

    @abstractmethod
    def version(self) -> str:
        """Of the library, as it decides whether an engine can be used again."""

    def onnx_precision(self, precision: Precision) -> Precision | None:
        """Which ONNX a build starts from; None where it starts from the torch module."""
        return None

    def flags(self, spec: Spec) -> dict[str, Any]:
        """Settings of the build, as JSON: other flags, other engine."""
        return {}

    def target(self, spec: Spec) -> dict[str, Any]:
        """What the file depends on beyond the library, as JSON: the card, if nothing else."""
        return card(spec.device)

    @abstractmethod
    def build(self, spec: Spec, source: "Source", folder: Path) -> None:
        """Compiles the network into files in an empty folder; none where there is nothing to keep.

        The engine is called engine.SUFFIX, what was said on the way engine.log, which loading does not need.

        Raises:
            RunError: the library failed.
        """

    @abstractmethod
    def load(self, spec: Spec, files: Mapping[str, Path], source: "Source") -> Network:
        """Opens what was built, ready to run.

        Args:
            spec: as it was built.
            files: name -> path, the ONNX files and what `build` left, checked against their digests.
            source: where the torch module comes from, for backends that have no file.

        Raises:
            UserError: the library does not take the file here.
            RunError: it failed.
        """


class Source(Protocol):
    """Where an engine comes from. Opened when first asked, since whoever loads a file needs no module."""

    @property
    def network(self) -> "Exportable":
        """The torch network."""

    @property
    def onnx(self) -> Path:
        """Its ONNX file in the precision that the backend asked for."""
