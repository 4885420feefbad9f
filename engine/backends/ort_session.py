"""Sessions of onnxruntime as the backends open them, and its errors in one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnxruntime

from d2r_fast.engine.backends.network import first_line
from d2r_fast.engine.backends.spec import Spec
from d2r_fast.engine.errors import RunError, UserError

_STATE = onnxruntime.capi.onnxruntime_pybind11_state
_ERRORS = (
    _STATE.EngineError, _STATE.EPFail, _STATE.Fail, _STATE.InvalidArgument, _STATE.InvalidGraph,
    _STATE.InvalidProtobuf, _STATE.NoModel, _STATE.NoSuchFile, _STATE.NotFound, _STATE.NotImplemented,
    _STATE.RuntimeException,
)  # fmt: skip


@contextmanager
def ort_errors(name: str) -> Iterator[None]:
    """Turns what onnxruntime raises into one line that names the network.

    Raises:
        RunError: in its place.
    """
    try:
        yield
    except _ERRORS as error:
        reason = first_line(error)
        advice = ": give a smaller --batch-size" if "memory" in reason.lower() else ""
        raise RunError(f"{name} failed in onnxruntime ({reason}){advice}") from error


def open_session(
    spec: Spec, path: Path, provider: str, settings: Mapping[str, str]
) -> onnxruntime.InferenceSession:
    """A session on this provider and on no other but the CPU, its batch decided, one thread per run.

    Raises:
        UserError: the provider's libraries cannot be loaded.
        RunError: onnxruntime does not take the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_free_dimension_override_by_name("batch", spec.batch_size)
    with ort_errors(spec.name):
        session = onnxruntime.InferenceSession(path, options, providers=[(provider, dict(settings))])
    # onnxruntime lists providers whose libraries cannot be loaded, and then runs on the CPU without a word.
    if provider not in session.get_providers():
        raise UserError(
            f"onnxruntime could not start {provider}: check its CUDA libraries, or give --device cpu"
        )
    return session
