"""Kills the writing of an ONNX file at each of its changes to the disk, over an older one of other content.

    python exportkiller.py FOLDER

Each time, whatever bears its final name must be complete: a graph that can be loaded, with its weights, old or
new and never mixed. Prints how many kills there were.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxscript import ir

from d2r_fast.engine.files import remove_stale
from d2r_fast.export import onnx_file

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def make(value: float) -> ir.Model:
    """y = x + value, in a weight that is large enough to lie outside."""
    shape = ir.Shape(("batch", 1000))
    x = ir.val("x", ir.DataType.FLOAT, shape)
    weight = ir.val("weight", const_value=ir.tensor(np.full(1000, value, np.float32), name="weight"))
    node = ir.node("Add", [x, weight], name="add")
    node.outputs[0].name, node.outputs[0].shape = "y", shape
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 18}, name="add"
    )
    return ir.Model(graph, ir_version=10)


def value_of(path: Path) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.zeros((1, 1000), np.float32)})
    assert (y == y[0, 0]).all(), "weights are mixed"
    return float(y[0, 0])


def write_until(number: int, folder: Path) -> bool:
    """Write in a process that is killed at its `number`-th change below `folder`; whether it was."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES and str(arguments[0]).startswith(str(folder)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        onnx_file.write_onnx(make(2.0), folder / "net.onnx")
        os._exit(0)
    finally:
        os._exit(1)


def main(folder: Path) -> int:
    onnx_file.INLINE_BYTES = 1000
    for kills in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        onnx_file.write_onnx(make(1.0), folder / "net.onnx")
        killed = write_until(kills + 1, folder)
        visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert visible <= {"net.onnx", "net.onnx.data"}, visible
        if "net.onnx" in visible:
            assert value_of(folder / "net.onnx") in ((1.0, 2.0) if killed else (2.0,))
        remove_stale(folder)
        assert {path.name for path in folder.iterdir()} == visible
        if not killed:
            return kills
    raise AssertionError("the writer never ends")


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
