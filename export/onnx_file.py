"""Writing an ONNX graph: checked, whole or not at all, and the same bytes for the same graph.

protobuf ends at 2 GiB, so the weights of a large network lie in a second file beside it, NAME.onnx.data, which
the first names without a folder. Both are prepared in a folder of a temporary name. What is seen is complete
at every moment: an older NAME.onnx goes first and the new one comes last.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxscript import ir

from d2r_fast.engine.files import Written, disk_errors, open_atomic, sync_folder, temporary, write_synced

INLINE_BYTES = 2**30
"""Weights above this lie in a file of their own: well below protobuf's limit."""
SMALL_BYTES = 1024
"""Tensors up to this stay in the graph in any case: shapes, which a checker has to see, and scalars."""
ALIGNMENT = 4096
"""Weights start at a page, so that runtimes can map them."""


def write_onnx(model: ir.Model, path: Path) -> dict[Path, Written]:
    """Write `model` as `path`, and its weights as `path`.data where they are large; the graph is used up.

    Returns:
        What was written, the weights first.

    Raises:
        onnx.checker.ValidationError: the graph is not valid; nothing is written.
        RunError: the disk is full.
        UserError: the folder may not be written to.
    """
    num_bytes = sum(_nbytes(value) for value in model.graph.initializers.values())
    data = path.with_name(path.name + ".data")
    with disk_errors(path, needed_bytes=num_bytes), _preparing(path) as folder:
        written = {}
        if num_bytes > INLINE_BYTES:
            written[data] = _move_weights(model, folder / data.name)
        content = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
        written[path] = write_synced(folder / path.name, content)
        onnx.checker.check_model(folder / path.name, full_check=True)
        sync_folder(folder)
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
        for file in written:
            (folder / file.name).rename(file)
        sync_folder(path.parent)
    return written


@contextmanager
def _preparing(path: Path) -> Iterator[Path]:
    folder = temporary(path)
    if folder.exists():  # of a killed process that had our number
        shutil.rmtree(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _nbytes(value: ir.Value) -> int:
    assert value.const_value is not None, value.name
    return value.const_value.nbytes


def _move_weights(model: ir.Model, path: Path) -> Written:
    """Write the large tensors to `path` and have the graph refer to them there."""
    with open_atomic(path) as file:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            assert tensor is not None
            if tensor.nbytes <= SMALL_BYTES:
                continue
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            shape = ir.Shape(tensor.shape.numpy())
            value.const_value = ir.ExternalTensor(
                path.name, file.tell(), tensor.nbytes, tensor.dtype, shape=shape, name=value.name or "",
                base_dir=path.parent,
            )  # fmt: skip
            file.write(tensor.tobytes())
    return file.written()
