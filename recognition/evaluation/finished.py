"""Finished results in the folder of an evaluation, so that one that was stopped goes on.

Each is a file of its own, named after what decides it: network, benchmark files, settings. Another network, a
changed benchmark or other settings are another name, and are measured again.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from d2r_fast.engine.console import say
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import make_folder, write_atomic
from d2r_fast.engine.folder_lock import held, refuse_foreign
from d2r_fast.engine.marker import document_digest, dump
from d2r_fast.recognition.evaluation.results import SuiteResult, decode_suite, encode_suite
from d2r_fast.recognition.evaluation.roc import Roc

FOLDER = "finished"
NETWORKS = "networks.json"
_CURVE = ("far", "tar", "thresholds")
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


@contextmanager
def hold(out: Path) -> Iterator[Path]:
    """The folder of finished results in `out`, made if need be, for this process alone.

    Raises:
        UserError: `out` is no folder to write to, or one of something else.
        RunError: another process evaluates into it.
    """
    refuse_foreign(out, own=[FOLDER], what="evaluation")
    make_folder(out)
    folder = out / FOLDER
    with held(folder):
        yield folder


def claim(folder: Path, networks: Mapping[str, str]) -> None:
    """Note which networks the folder is about, by run.

    Raises:
        UserError: it is about others, whose results would be replaced.
    """
    path = folder / NETWORKS
    wanted = dump(dict(networks))
    if path.exists() and path.read_bytes() != wanted:
        raise UserError(
            f"{folder.parent} holds results of other networks ({_names(path)}): give another --out, or delete it"
        )
    write_atomic(path, wanted)


def _names(path: Path) -> str:
    try:
        return ", ".join(map(str, json.loads(path.read_bytes()).values()))
    except (ValueError, AttributeError):
        return f"{path} is damaged"


def result_path(folder: Path, suite: str, decided_by: Mapping[str, Any]) -> Path:
    """Where the result on a suite lies that is decided by these values of JSON."""
    return folder / f"{suite}.{document_digest(decided_by)[:16]}.npz"


def digest(files: list[Path]) -> str:
    """Hex SHA-256 over the contents of benchmark files.

    Raises:
        UserError: one cannot be read.
    """
    total = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): get it again") from None
    return total.hexdigest()


def stamp(folders: list[Path]) -> str:
    """Hex SHA-256 over name, size and time of change of each file in folders of photographs.

    To read half a million of them would take longer than many a network needs for them.

    Raises:
        UserError: a folder cannot be read.
    """
    total = hashlib.sha256()
    for folder in folders:
        try:
            found = sorted(_files(folder, ""))
        except OSError as error:
            raise UserError(
                f"{folder} cannot be read ({error.strerror}): put the benchmark's images there"
            ) from None
        for name, num_bytes, changed_ns in found:
            total.update(f"{name}\0{num_bytes}\0{changed_ns}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _files(folder: Path, below: str) -> Iterator[tuple[str, int, int]]:
    """Name, bytes and time of change of every file in a folder and those in it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.is_dir():
                yield from _files(Path(entry.path), f"{name}/")
                continue
            with suppress(FileNotFoundError):  # a link to nothing is no image
                found = entry.stat()
                yield name, found.st_size, found.st_mtime_ns


def save_result(path: Path, result: SuiteResult) -> None:
    """Write a result with its curves, whole or not at all.

    Raises:
        RunError: the disk is full.
    """
    parts = {"": result, **result.races, **result.fusions}
    about = {
        "result": encode_suite(result),
        "seconds": {name: found.seconds for name, found in parts.items()},
        "counts": {name: [found.num_genuine, found.num_impostor] for name, found in parts.items()},
    }
    arrays = {"about": np.frombuffer(json.dumps(about, allow_nan=False).encode(), np.uint8)}
    for name, found in parts.items():
        if found.roc is not None:
            arrays |= {f"{name}/{part}": getattr(found.roc, part) for part in _CURVE}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def load_result(path: Path, suite: str) -> SuiteResult | None:
    """The result that lies there; None where there is none, or a damaged one, which is said."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            result = decode_suite(suite, about["result"])
            races, fusions = (
                {name: _complete(found, name, about, arrays) for name, found in parts.items()}
                for parts in (result.races, result.fusions)
            )
            return replace(_complete(result, "", about, arrays), races=races, fusions=fusions)
    except _DAMAGE as error:
        say(f"{path} is damaged ({type(error).__name__}) and {suite} is measured again")
        return None


def _complete(result: SuiteResult, name: str, about: Any, arrays: Any) -> SuiteResult:
    """A result with its time, and its curve if it has one."""
    roc = None
    if f"{name}/far" in arrays:
        roc = Roc(*(arrays[f"{name}/{part}"] for part in _CURVE), *about["counts"][name])
    return replace(result, seconds=about["seconds"][name], roc=roc)
