"""Opening an ONNX file with onnxruntime, on the device asked for or not at all."""

from pathlib import Path

import onnxruntime

from d2r_fast.engine.errors import UserError


class NoProvider(UserError):
    """onnxruntime cannot run on a device; `reason` says why, without an option that chooses another."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}, or choose --recogniser-device cpu")
        self.reason = reason


def open_session(path: Path, *, device: str) -> onnxruntime.InferenceSession:
    """An onnxruntime session on `cpu`, where a run has one thread, `cuda` or `cuda:N`.

    Raises:
        UserError: no such file, not an ONNX graph, or a provider that this onnxruntime does not have (NoProvider).
    """
    if not path.is_file():
        raise UserError(
            f"{path} is missing: give a model folder from `d2r-fast models pull` or `models init`"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    provider = _provider(device)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    except (*_LOAD_ERRORS, RuntimeError) as error:
        raise UserError(f"{path} is not a usable ONNX graph: {str(error).splitlines()[0]}") from None
    # onnxruntime lists CUDA where its libraries cannot be loaded, and then runs on the CPU without a word.
    wanted = provider if isinstance(provider, str) else provider[0]
    if wanted not in session.get_providers():
        raise NoProvider(f"onnxruntime could not start {wanted}: check its CUDA libraries")
    return session


_STATE = onnxruntime.capi.onnxruntime_pybind11_state
_LOAD_ERRORS = (
    _STATE.Fail,
    _STATE.InvalidProtobuf,
    _STATE.InvalidGraph,
    _STATE.NoModel,
    _STATE.InvalidArgument,
    _STATE.NotImplemented,
    _STATE.RuntimeException,
    _STATE.EPFail,
)


def _provider(device: str) -> str | tuple[str, dict[str, str]]:
    if device == "cpu":
        return "CPUExecutionProvider"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise NoProvider(
            f"onnxruntime here cannot run on {device} (it has {', '.join(onnxruntime.get_available_providers())}): "
            "pip install onnxruntime-gpu in its place"
        )
    _, _, index = device.partition(":")
    # The default search picks convolutions by timing them, so that two runs may compute differently.
    options = {"device_id": index or "0", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    return ("CUDAExecutionProvider", options)
