"""One engine that is wanted, and the key that only it has."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends.spec import Backend, Spec
from d2r_fast.engine.engine_file import Built, find
from d2r_fast.engine.engine_record import EngineRecord
from d2r_fast.engine.engine_source import EngineSource
from d2r_fast.engine.engine_wish import Wish

if TYPE_CHECKING:
    from d2r_fast.export.networks import Exportable


class Job:
    """A wish for one network of one model folder.

    Args:
        network: as export.networks opens it.
        root: engines folder.
        wish: as `Wish.checked` returns it; the network may know better which precision, and has a form for it.
    """

    def __init__(self, network: "Exportable", root: Path, wish: Wish) -> None:
        wish = replace(wish, precision=network.arithmetic(wish.precision))
        network = network.on(wish.device, wish.precision)
        self.network, self.root, self.wish = network, root, wish
        self.backend: Backend = find_backend(wish.backend)
        self.spec = Spec(
            name=network.name, backend=wish.backend, precision=wish.precision, batch_size=wish.batch_size,
            device=wish.device, targets=wish.targets,
            inputs=tuple(port.at(wish.batch_size) for port in network.inputs),
            outputs=tuple(port.at(wish.batch_size) for port in network.outputs),
        )  # fmt: skip
        variant = _variant(network.source)
        name = f"{network.name}-{wish.precision}-b{wish.batch_size}"
        self.sidecar = root / wish.backend / f"{'-'.join(filter(None, (name, variant)))}.json"
        self.source = EngineSource(
            network, root=root, precision=self.backend.onnx_precision(wish.precision), variant=variant
        )

    @classmethod
    def open(cls, name: str, models: Path, root: Path, wish: Wish) -> "Job":
        """The job for one of NETWORKS of a model folder.

        Raises:
            UserError: the folder does not hold it, or not in this size.
        """
        from d2r_fast.export.networks import open_network

        network = open_network(
            name, models, height=wish.height, width=wish.width, lora=wish.lora and name == "unet",
            recogniser=wish.recogniser,
        )  # fmt: skip
        return cls(network, root, wish)

    @cached_property
    def key(self) -> dict[str, Any]:
        """What the engine is made of, by and for. The ONNX's digests are None while it is not there."""
        spec = self.spec
        ports = (*spec.inputs, *spec.outputs)
        return {
            "network": spec.name,
            "source": self.network.source,
            **self.source.onnx_parts(),
            "backend": spec.backend,
            "backend_version": self.backend.version(),
            "precision": spec.precision,
            "batch_size": spec.batch_size,
            "shapes": {port.name: list(port.shape) for port in ports},
            "flags": self.backend.flags(spec),
            "target": {"device": spec.device.split(":")[0], **self.backend.target(spec)},
        }

    def find(self) -> Built[EngineRecord] | str:
        """The engine if it is there as wanted, else one clause that says why it is not."""
        return find(self.root, self.sidecar, self.key, EngineRecord)

    def onnx_is_there(self) -> None:
        """To be called once the ONNX is exported: the key gets its digests, and the torch module is let go of."""
        self.__dict__.pop("key", None)
        if self.source.has_onnx:
            vars(self.network).pop("module", None)  # where cached_property keeps it


def _variant(source: Mapping[str, str]) -> str:
    size = f"{source['height']}x{source['width']}" if "height" in source and "width" in source else ""
    parts = (size, "lcm" if "lora" in source else "", source.get("convolutions", ""))
    return "-".join(part for part in parts if part)
