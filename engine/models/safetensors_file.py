"""Writing and listing .safetensors files one tensor at a time, so that a 3.4 GB UNet needs no 3.4 GB.

The format (huggingface/safetensors): eight bytes of header length, little endian, a JSON header of names,
dtypes, shapes and offsets, padded with spaces to a multiple of eight, then the values in that order.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.files import Written, open_atomic

CODES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}


def write_safetensors(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    values: Callable[[str], NDArray[np.float32]],
    *,
    dtype: type[np.floating] = np.float32,
) -> Written:
    """Write the tensors of `shapes`, asking `values` for each by name, in order."""
    kind = np.dtype(dtype)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * kind.itemsize
        header[name] = {"dtype": CODES[kind], "shape": list(shape), "data_offsets": [offset, end]}  # type: ignore[dict-item]
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open_atomic(path, needed_bytes=8 + len(text) + offset) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            value = values(name)
            assert value.shape == shape, (name, value.shape, shape)
            file.write(np.ascontiguousarray(value, kind).data)
    return file.written()
