"""The backends: one table, from the name on the command line to the class that compiles and runs networks.

A backend's module is imported when it is first asked for, its library when that is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from d2r_fast.engine.errors import UserError

if TYPE_CHECKING:
    from d2r_fast.engine.backends.spec import Backend

BACKENDS = {
    "torch": "torch_eager:TorchEager",
    "inductor": "inductor:Inductor",
    "onnxruntime": "ort:Onnxruntime",
    "onnxruntime-tensorrt": "ort:Onnxruntime",
    "openvino": "ov:OpenVino",
    "tensorrt": "trt:TensorRT",
    "tensorrt-rtx": "trt:TensorRT",
}


def find_backend(name: str) -> "Backend":
    """The backend of this name; whether it can run here is its `why_not`.

    Raises:
        UserError: no such name.
    """
    if name not in BACKENDS:
        raise UserError(f"backend {name!r} is not there: expected one of {', '.join(BACKENDS)}")
    module, _, kind = BACKENDS[name].partition(":")
    backend: Backend = getattr(import_module(f"{__name__}.{module}"), kind)(name)
    return backend
