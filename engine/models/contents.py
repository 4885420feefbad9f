"""What a weight file holds, read without loading it: names, shapes, dtypes, or an ONNX graph's signature."""

import json
import math
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from safetensors import SafetensorError, safe_open


class DamagedError(ValueError):
    """A file cannot be what it is named: the reason, in one line."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """Name -> shape, the dtypes that occur, and the names of what is not floating point."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: tuple[str, ...]
    not_floating: tuple[str, ...] = ()

    @property
    def num_values(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX graph's inputs and outputs (None where a side is dynamic) and how many weights it holds."""

    inputs: tuple[tuple[int | None, ...], ...]
    outputs: tuple[tuple[int | None, ...], ...]
    num_values: int


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DamagedError."""
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise DamagedError(f"not a JSON object but a {type(document).__name__}")
    return document


def read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file or of a PyTorch checkpoint. Raises DamagedError.

    A safetensors file whose length is not what its header says is damaged. A checkpoint is a pickle, which
    can run code when loaded: one that holds more than tensors and plain values is refused unread.
    """
    if path.stat().st_size == 0:
        raise DamagedError("empty file")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, "pt") as file:
            views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            shapes = {name: tuple(view.get_shape()) for name, view in views.items()}
            dtypes = {name: str(view.get_dtype()) for name, view in views.items()}
    except SafetensorError as error:
        raise DamagedError(f"truncated, or not a safetensors file: {error}") from None
    others = tuple(name for name, dtype in dtypes.items() if not dtype.startswith(("F", "BF")))
    return Tensors(shapes, tuple(sorted(set(dtypes.values()))), others)


def _read_checkpoint(path: Path) -> Tensors:
    try:
        with warnings.catch_warnings():
            # PyTorch warns that it may have to refuse a plain pickle, and then does, which we report.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            # Only the newer, zipped format can stay on disk while its names and shapes are read.
            state = torch.load(path, weights_only=True, mmap=zipfile.is_zipfile(path), map_location="cpu")
    except pickle.UnpicklingError:
        raise DamagedError(
            "not loadable as weights only: it holds other objects, or is no checkpoint"
        ) from None
    except (
        AssertionError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DamagedError(f"truncated, or not a PyTorch checkpoint: {reason}") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise DamagedError("not a table of named tensors")
    return Tensors(
        {name: tuple(value.shape) for name, value in state.items()},
        tuple(sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})),
        tuple(name for name, value in state.items() if not value.is_floating_point()),
    )


def read_graph(path: Path) -> Graph:
    """The signature of an ONNX file. Raises DamagedError."""
    if path.stat().st_size == 0:
        raise DamagedError("empty file")
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise DamagedError(f"truncated, or not an ONNX file: {error}") from None
    if not graph.node:
        raise DamagedError("an ONNX file without a graph")
    stored = {initializer.name for initializer in graph.initializer}
    return Graph(
        tuple(_sides(value) for value in graph.input if value.name not in stored),
        tuple(_sides(value) for value in graph.output),
        sum(math.prod(initializer.dims) for initializer in graph.initializer),
    )


def _sides(value: Any) -> tuple[int | None, ...]:
    sides = value.type.tensor_type.shape.dim
    return tuple(side.dim_value if side.HasField("dim_value") else None for side in sides)
