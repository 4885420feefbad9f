"""Verification sets of InsightFace, NAME.bin: one pickle of (list of 2N encoded images, list of N labels).

Pair i is images 2i and 2i + 1; label i says whether they show one person. Such files come from Python 2 and 3,
and hold bytes or numpy arrays of bytes, bools or numpy bools. A pickle can run code; here it cannot, as no name
in it is looked up: the few that such files need are stood in for by data, any other ends the reading.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import open_atomic

PROTOCOL = 4
"""Of the files written: what every Python 3 reads."""
# What the unpickler itself and the stand-ins raise on damaged or hostile files; all of it is the file's fault.
_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, ImportError,
    OverflowError, MemoryError, RecursionError,
)  # fmt: skip
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUFFER_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
_NUMBERS = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")


@dataclass(frozen=True)
class BinPairs:
    """Pairs of encoded images: `images` (2N), pair i at 2i and 2i + 1; `same` bool (N,)."""

    images: list[bytes]
    same: NDArray[np.bool_]


def read_bin(path: Path) -> BinPairs:
    """The pairs of a verification file.

    Raises:
        UserError: no such file, not such a pickle, anything in it but images and labels, an odd number of
            images, or one that disagrees with the number of labels.
    """
    images, labels = _load(path)
    if len(images) % 2:
        raise UserError(
            f"{path} holds {len(images):,} images, an odd number: pairs need two each, get it again"
        )
    if len(images) != 2 * len(labels) or not labels:
        raise UserError(
            f"{path} holds {len(images):,} images and {len(labels):,} labels: there must be two images per "
            "label, and one label at least; get it again"
        )
    found = [_image(path, index, value) for index, value in enumerate(images)]
    same = [_label(path, index, value) for index, value in enumerate(labels)]
    return BinPairs(found, np.array(same, bool))


def write_bin(path: Path, images: Sequence[bytes], same: Sequence[bool] | NDArray[np.bool_]) -> None:
    """Write pairs of encoded images so that InsightFace, AdaFace and `read_bin` read them.

    Raises:
        ValueError: there are not two images per label.
        UserError: `path` is no place for a file.
        RunError: the disk is full.
    """
    if len(images) != 2 * len(same):
        raise ValueError(f"{len(images)} images for {len(same)} labels: give two images per label")
    pairs = ([bytes(image) for image in images], [bool(label) for label in same])
    with open_atomic(path) as file:
        pickle.dump(pairs, file, protocol=PROTOCOL)


def _load(path: Path) -> tuple[list[Any], list[Any]]:
    """Images and labels, each as plain as it is there: bytes, bools and integers where all is well."""
    try:
        with path.open("rb") as file:
            images, labels = _Unpickler(file, encoding="bytes").load()
        return [_plain(value) for value in _items(images)], [_plain(value) for value in _items(labels)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a verification .bin file") from None
    except _Forbidden as error:
        raise UserError(
            f"{path} asks for {error}, which a list of images does not need: not read, as a pickle can run "
            "code; get it from another source"
        ) from None
    except _DAMAGE as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is damaged or no pickle of (images, labels) ({why}): give a verification .bin file"
        ) from None


def _items(value: Any) -> list[Any]:
    """The elements of a list, a tuple or an array."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, _Array):
        return value.items()
    raise TypeError(f"a {type(value).__name__} where a list of images or labels belongs")


def _plain(value: Any) -> Any:
    """A uint8 array as bytes, another one of one element as that, all else as it is."""
    return value.plain() if isinstance(value, _Array) else value


def _image(path: Path, index: int, value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray):
        raise UserError(
            f"{path}: image {index} is no encoded file (bytes or a one-dimensional uint8 array): get the set "
            "with JPEG or PNG images"
        )
    return bytes(value)


def _label(path: Path, index: int, value: Any) -> bool:
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise UserError(f"{path}: label {index} is {value!r:.40}: wanted are True and False, or 1 and 0")
    return bool(value)


class _Forbidden(Exception):
    """The pickle names something that no verification file needs."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _known(module, name)
        if known is None:
            raise _Forbidden(f"{module}.{name}")
        return known


def _known(module: str, name: str) -> "_StandIn | None":
    """A new stand-in for what numpy and Python pickle arrays, scalars and bytes by; None for all else."""
    if module in _ARRAY_MODULES and name in ("_reconstruct", "scalar"):
        return _StandIn(name)
    if module in _BUFFER_MODULES and name == "_frombuffer":
        return _StandIn(name)
    if module == "numpy" and name in ("ndarray", "dtype"):
        return _StandIn(name)
    if module in ("builtins", "__builtin__") and name in ("bytes", "bytearray"):
        return _StandIn(name)
    return _StandIn("encode") if (module, name) == ("_codecs", "encode") else None


class _StandIn:
    """A function that a pickle may call. What it does is here; nothing is imported or looked up."""

    __slots__ = ("_name",)

    _name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError("a pickle may not change what it names")

    def __call__(self, *given: Any) -> Any:
        match self._name, given:
            case "dtype", (code, *_):
                return _DType(_text(code))
            case "_reconstruct", _:
                return _Array()
            case "scalar", (_DType() as dtype, bytes() as data):
                return _Array.of(dtype, data, ()).plain()
            case "_frombuffer", (bytes() | bytearray() as data, _DType() as dtype, tuple() as shape, *_):
                return _Array.of(dtype, data, shape)
            case "encode", (str() as text, codec) if _text(codec) in ("latin1", "latin-1"):
                return text.encode("latin-1")  # how Python 3 writes bytes in protocols 0 to 2
            case (("bytes" | "bytearray"), ()):
                return b""
            case "bytearray", (bytes() as data,):
                return data
        raise pickle.UnpicklingError(f"a wrong call of {self._name}")


class _DType:
    """A numpy dtype as far as it matters: its code, such as u1, b1, i8 or O8, and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code.lstrip("<>|="), "="

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1])
        self.order = order if order in ("<", ">") else "="

    def values(self, data: bytes | bytearray) -> list[Any]:
        """The bools or integers that these bytes are."""
        if self.code not in _NUMBERS:
            raise pickle.UnpicklingError(f"an array of {self.code}, wanted are bytes, bools or integers")
        values: list[Any] = np.frombuffer(data, np.dtype(self.order + self.code)).tolist()
        return values


class _Array:
    """A numpy array as pickled: bytes of one dtype, or a list of objects. Only one dimension is of use."""

    __slots__ = ("data", "dtype", "shape")

    def __init__(self) -> None:
        self.shape: tuple[Any, ...] = (0,)
        self.dtype = _DType("u1")
        self.data: Any = b""

    @classmethod
    def of(cls, dtype: _DType, data: bytes | bytearray, shape: tuple[Any, ...]) -> "_Array":
        array = cls()
        array.dtype, array.data, array.shape = dtype, data, shape
        return array

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, _, data = state
        if not isinstance(dtype, _DType) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array without a shape or a dtype")
        self.shape, self.dtype, self.data = shape, dtype, data

    def items(self) -> list[Any]:
        """Its elements."""
        if len(self.shape) > 1:
            raise pickle.UnpicklingError(f"an array of shape {self.shape}, wanted is one dimension")
        return list(self.data) if isinstance(self.data, list) else self.dtype.values(self.data)

    def plain(self) -> Any:
        """A one-dimensional uint8 array as bytes; the one element of another; None for one of several."""
        if len(self.shape) == 1 and self.dtype.code == "u1" and isinstance(self.data, bytes | bytearray):
            return bytes(self.data)
        items = self.items()
        return items[0] if len(items) == 1 else None


def _text(value: Any) -> str:
    """Text of a Python 2 or Python 3 string."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
