"""An engine on disk: a network compiled for one backend, and the sidecar that says what it is.

    ENGINES/onnx/unet-fp16-512x512.onnx (.data) .json       what several backends start from
    ENGINES/tensorrt-rtx/unet-fp16-b8-512x512.plan .log .json

The sidecar `NAME.json` is written last and lists every file with its sha256. Its key says what the engine was
made of, by and for; an engine serves only where each part of the key is as wanted. A backend that compiles
when it loads keeps no file of its own and lists the ONNX.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from d2r_fast.engine.engine_record import FileRecord, Record
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import disk_errors, remove_stale, sha256_file, sync_folder, temporary, write_atomic

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Built(Generic[R]):
    """A sidecar and what it says.

    Attributes:
        root: the engines folder; names of files are relative to it.
        sidecar: the JSON file.
        record: its content.
    """

    root: Path
    sidecar: Path
    record: R

    @property
    def files(self) -> dict[str, Path]:
        """Name -> path of every file."""
        return {name: self.root / name for name in self.record.files}

    def damage(self, *, thorough: bool) -> str | None:
        """What is wrong with a file: missing, cut off, or (thorough: all bytes are read) changed."""
        for name, path in self.files.items():
            written = self.record.files[name]
            try:
                num_bytes = path.stat().st_size
                digest = sha256_file(path) if thorough else written.sha256
            except OSError as error:
                return f"{path} cannot be read ({error.strerror})"
            if num_bytes != written.bytes:
                return f"{path} has {num_bytes:,} bytes where {written.bytes:,} were written"
            if digest != written.sha256:
                return f"{path} is not what was written (its sha256 differs)"
        return None


def find(root: Path, sidecar: Path, key: Mapping[str, Any], kind: type[R]) -> Built[R] | str:
    """What lies at `sidecar` if it is what `key` asks for, else one clause that says why it is not."""
    try:
        record = kind.model_validate_json(sidecar.read_bytes())
    except FileNotFoundError:
        return f"{sidecar} is not there"
    except OSError as error:
        return f"{sidecar} cannot be read ({error.strerror})"
    except ValidationError:
        return f"{sidecar} is damaged or of another version of d2r-fast"
    differing = first_difference(record.key, _known(key, record.key))
    if differing is not None:
        return f"{sidecar} has {differing}"
    built = Built(root, sidecar, record)
    return built.damage(thorough=False) or built


def _known(key: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The key; where the ONNX is gone, what it was exported from and by, in the key too, says what it was."""
    unknown = "onnx_sha256" in key and key["onnx_sha256"] is None
    return {**key, "onnx_sha256": found.get("onnx_sha256")} if unknown else dict(key)


def first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first part of `wanted` that `found` has otherwise, in words; None where there is none.

    An engine that was built for more targets than wanted serves.
    """
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        ours, theirs = wanted.get(name), found.get(name)
        if ours == theirs or (name == "targets" and set(ours or ()) <= set(theirs or ())):
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            inner = first_difference(theirs, ours)
            if inner is None:
                continue
            return f"{name} {inner}"
        return f"{name} {_show(theirs)}, where {_show(ours)} is wanted"
    return None


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 or " " in text else f"{text[:12]}..."


def install(folder: Path, sidecar: Path, record: Record) -> None:
    """Give built files their names, and write the sidecar last.

    An old sidecar goes first, so that at no moment one stands beside files that are not its own.

    Args:
        folder: holds the new files, in the sidecar's folder; it is removed.
        sidecar: where the sidecar is to lie; files go beside it, under `final_name`.
        record: the sidecar's content.
    """
    home = sidecar.parent
    with disk_errors(sidecar):
        sidecar.unlink(missing_ok=True)
        sync_folder(home)
        for path in sorted(folder.iterdir()):
            _flush(path)
            path.replace(home / final_name(sidecar, path))
        folder.rmdir()
        sync_folder(home)
    write_sidecar(sidecar, record)


def write_sidecar(sidecar: Path, record: Record) -> None:
    """Write a sidecar, whole or not at all."""
    write_atomic(sidecar, (record.model_dump_json(indent=2) + "\n").encode())


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def final_name(sidecar: Path, path: Path) -> str:
    """What a built file is called beside its sidecar: engine.plan as that, any other name as it is."""
    return sidecar.stem + path.suffix if path.stem == "engine" else path.name


def describe(root: Path, sidecar: Path, paths: Iterable[Path]) -> dict[str, FileRecord]:
    """Name below `root`, once installed beside the sidecar -> digest and length, of files as they were built."""
    names = {
        (sidecar.parent / final_name(sidecar, path)).relative_to(root).as_posix(): path for path in paths
    }
    return {n: FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size) for n, path in names.items()}


@contextmanager
def building(sidecar: Path) -> Iterator[Path]:
    """An empty folder to build in, beside the sidecar, that is removed with what is left in it.

    Its name is a temporary one: what a killed build leaves is removed by the next, who holds the lock.
    """
    folder = temporary(sidecar.with_suffix(""))
    with disk_errors(sidecar):
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(sidecar.parent)
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse(reason: str) -> UserError:
    """The error for an engine that does not serve and may not be built now."""
    return UserError(f"{reason}: build it again by `d2r-fast build-engines`")
