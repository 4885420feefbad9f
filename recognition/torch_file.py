"""Reading a PyTorch checkpoint from anywhere without running what is written in it.

A checkpoint is a zip file with one pickle and, beside it, the bytes of every tensor. A pickle may name any function
of any installed package and have it called. Here only PyTorch's own way to put a tensor together is known, and done by
ourselves; whatever else a checkpoint names (a Lightning checkpoint names its callbacks) becomes an inert stand-in, so
that the tensors beside it can still be read.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.load import read_tensors

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
LEGACY = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""How files of before PyTorch 1.6 begin: their magic number as a pickle."""
# What pickle and zipfile raise on bytes that are no checkpoint, and our own code on values that it does not expect.
_DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError, OSError, RecursionError,
    RuntimeError, TypeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


def read_checkpoint(path: Path) -> Mapping[Any, Any]:
    """What a checkpoint holds: a table of tensors, of other tables, of numbers and of inert stand-ins.

    Files of before PyTorch 1.6, which are no zip files, are read by PyTorch's own restricted unpickler, and have to
    be plain tables of tensors.

    Raises:
        UserError: no such file, a damaged or cut off one, a TorchScript archive, or no table.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: give a checkpoint")
    if _is_legacy(path):
        return read_tensors(path)
    content = _read_archive(path)
    if not isinstance(content, dict) or isinstance(content, _Inert):
        raise UserError(
            f"{path} holds a {type(content).__name__}, not a table of tensors: give a state dict, as "
            "torch.save(network.state_dict(), path) writes"
        )
    return content


def _is_legacy(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(LEGACY)) == LEGACY
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file that you may read") from None


def _read_archive(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive).load()
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is damaged or no PyTorch checkpoint ({reason}): fetch it again") from None


class _Archive:
    """The zip file of a checkpoint: NAME/data.pkl, and NAME/data/KEY for every storage."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError("a TorchScript archive, which is a program")
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("no data.pkl in it")
        self._archive, self._pickled = archive, pickles[0]
        self._folder = pickles[0].removesuffix("data.pkl")
        if f"{self._folder}byteorder" in names and self._read("byteorder") != b"little":
            raise ValueError("written on a big-endian machine")
        self._storages: dict[str, Tensor] = {}

    def load(self) -> Any:
        with self._archive.open(self._pickled) as file:
            return _Unpickler(file, self).load()

    def storage(self, key: str, dtype: torch.dtype) -> Tensor:
        """All values of a storage, 1-D; zipfile compares their CRC-32."""
        if key not in self._storages:
            data = bytearray(self._read(f"data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]

    def _read(self, name: str) -> bytes:
        return self._archive.read(self._folder + name)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: _Archive) -> None:
        super().__init__(file)
        self._archive = archive

    def find_class(self, module: str, name: str) -> Any:
        """Never looks anything up: a pickle may change what it is given, so that all of it is made for this one."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in STORAGES:
            return _StorageKind(STORAGES[name])
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return _RebuildTensor() if name == "_rebuild_tensor_v2" else _RebuildParameter()
        return type(name, (_Inert,), {})

    def persistent_load(self, saved: Any) -> Tensor:
        kind, storage, key, _, _ = saved
        if kind != "storage" or not isinstance(storage, _StorageKind):
            raise pickle.UnpicklingError(f"a storage of unknown kind {storage!r}")
        return self._archive.storage(key, storage.dtype)


class _StorageKind:
    """Stands for torch.FloatStorage and its like."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _RebuildTensor:
    """torch._utils._rebuild_tensor_v2: a view of a storage."""

    __slots__ = ()

    def __call__(self, storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        if math.prod(size) > storage.numel():
            raise ValueError(f"a tensor of {tuple(size)} in a storage of {storage.numel()} values")
        # as_strided refuses what reaches beyond the storage.
        return storage.as_strided(tuple(size), tuple(stride), offset).clone()


class _RebuildParameter:
    """torch._utils._rebuild_parameter: the tensor alone."""

    __slots__ = ()

    def __call__(self, tensor: Tensor, *_: Any) -> Tensor:
        return tensor


class _Inert(dict[Any, Any]):
    """An object of a class that is not looked up: takes any state, items and calls, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "_Inert":
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass

    def add(self, _: Any) -> None:
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]  # may be the key of a table
    __eq__ = object.__eq__
