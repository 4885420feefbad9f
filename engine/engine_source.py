"""Where an engine comes from: the torch network of a model folder, and its ONNX file in the engines folder.

    ENGINES/onnx/unet-fp16-512x512.onnx (.data where weights lie outside) .json

The ONNX has a sidecar as engines have, with a key of its own, and is exported again only where that differs.
"""

import time
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from d2r_fast.engine.backends.network import first_line
from d2r_fast.engine.config import Precision
from d2r_fast.engine.console import say
from d2r_fast.engine.engine_file import Built, building, describe, find, install
from d2r_fast.engine.engine_record import FileRecord, Record
from d2r_fast.engine.errors import RunError

if TYPE_CHECKING:
    from d2r_fast.export.networks import Exportable

EXPORTERS = ("torch", "onnx", "onnxscript")


class EngineSource:
    """One network of a model folder, to build engines of.

    Args:
        network: as export.networks opens it.
        root: the engines folder.
        precision: of the ONNX that the backend wants; None where it wants none.
        variant: what tells this network's files apart from those in other sizes.
    """

    def __init__(
        self, network: "Exportable", *, root: Path, precision: Precision | None, variant: str
    ) -> None:
        self.network = network
        self._root = root
        self._precision = precision
        size = f"-{variant}" if variant else ""
        self._sidecar = root / "onnx" / f"{network.name}-{precision}{size}.json"

    @property
    def has_onnx(self) -> bool:
        """Whether its backend starts from ONNX."""
        return self._precision is not None

    def onnx_parts(self) -> dict[str, Any]:
        """The parts of an engine's key that say which ONNX it is made of; the file's digests if it is there."""
        if self._precision is None:
            return {}
        found = self._find()
        return {"exporter": self._key["exporter"], "onnx_sha256": self._digests(found)}

    @property
    def onnx(self) -> Path:
        """The ONNX file, exported if need be. The caller holds the engines folder's lock."""
        return next(path for path in self._exported.files.values() if path.suffix == ".onnx")

    @property
    def onnx_files(self) -> dict[str, FileRecord]:
        """Its files as sidecars list them."""
        return self._exported.record.files

    @cached_property
    def _key(self) -> dict[str, Any]:
        return {
            "network": self.network.name,
            "source": self.network.source,
            "precision": self._precision,
            "exporter": {name: version(name) for name in EXPORTERS},
        }

    def _find(self) -> Built[Record] | str:
        return find(self._root, self._sidecar, self._key, Record)

    @staticmethod
    def _digests(found: Built[Record] | str) -> dict[str, str] | None:
        if isinstance(found, str):
            return None
        return {Path(name).name: file.sha256 for name, file in found.record.files.items()}

    @cached_property
    def _exported(self) -> Built[Record]:
        found = self._find()
        if isinstance(found, Built):
            return found
        started_s = time.monotonic()
        with building(self._sidecar) as folder:
            say(f"{self.network.name}: exporting to ONNX in {self._precision}")
            paths = self._export(folder / self._sidecar.with_suffix(".onnx").name)
            files = describe(self._root, self._sidecar, sorted(paths))
            record = Record(key=self._key, files=files, build_s=round(time.monotonic() - started_s, 2))
            install(folder, self._sidecar, record)
        return Built(self._root, self._sidecar, record)

    def _export(self, path: Path) -> list[Path]:
        from d2r_fast.export.networks import export_network

        assert self._precision is not None
        try:
            return list(export_network(self.network, path, precision=self._precision))
        except onnx.checker.ValidationError as error:
            raise RunError(
                f"{self.network.name} exports to an ONNX graph that is not valid ({first_line(error)}): "
                f"this is a fault of torch {version('torch')} or onnxscript {version('onnxscript')}, take the "
                "versions of requirements.lock"
            ) from error
