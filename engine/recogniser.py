"""A face-recognition network in ONNX: aligned crops in, embeddings out.

Any graph with one (N,3,H,W) float input serves. How pixels are normalised comes from a sidecar beside it
(`NAME.json`), for example

    {"channels": "rgb", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

applied to x/255. Without one, insightface's rule holds: RGB, (x - 127.5) / 127.5, unless the graph normalises
by itself (a Sub and a Mul among its first eight nodes), when pixels go in as they are.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.onnx_session import open_session


@dataclass(frozen=True)
class Normalisation:
    """network input = (x / 255 - mean) / std, channel order `channels`."""

    channels: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N,H,W,3) RGB -> float32 (N,3,H,W) in the network's order and range."""
        ordered = crops if self.channels == "rgb" else crops[..., ::-1]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        scaled = (ordered.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Normalised crops (N,3,H,W) -> embeddings (N,D)."""
_STATE = onnxruntime.capi.onnxruntime_pybind11_state
INSIGHTFACE = Normalisation("rgb", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PIXELS = Normalisation("rgb", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))


class Recogniser:
    """An open recogniser.

    Attributes:
        path: its ONNX file.
        embedding_dim: width of its embeddings.
        size: (height, width) of the crops it takes, in pixels.
        normalisation: what is done to their pixels first.
    """

    def __init__(
        self,
        path: Path,
        session: onnxruntime.InferenceSession,
        rule: Normalisation,
        *,
        batch_size: int,
        num_streams: int,
    ):
        self.path = path
        self._session = session
        self.normalisation = rule
        image, embedding = session.get_inputs()[0], session.get_outputs()[0]
        self._input, self._output = image.name, embedding.name
        self.embedding_dim: int = embedding.shape[1]
        self.size: tuple[int, int] = (image.shape[2], image.shape[3])
        self._batch_size: int = image.shape[0] if isinstance(image.shape[0], int) else batch_size
        self._streams = ThreadPoolExecutor(num_streams) if num_streams > 1 else None
        self._elsewhere: Run | None = None

    @classmethod
    def load(cls, path: Path, *, device: str = "cpu", batch_size: int = 64) -> "Recogniser":
        """Open an ONNX recogniser and its sidecar.

        Args:
            path: ONNX file.
            device: cpu, cuda or cuda:N.
            batch_size: crops per run on CUDA; on the CPU they run one by one, each on a thread of its own. A
                graph with a fixed batch keeps that.

        Raises:
            UserError: no such file, not a recogniser, an unusable sidecar, no such provider.
        """
        session = open_session(path, device=device)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        image = inputs[0].shape if len(inputs) == 1 else []
        fixed = len(image) == 4 and image[1] == 3 and all(isinstance(side, int) for side in image[2:])
        fixed = fixed and image[0] != 0 and min(image[2:]) > 0 and inputs[0].type == "tensor(float)"
        if not fixed or len(outputs[0].shape) != 2 or not isinstance(outputs[0].shape[1], int):
            taken = [(i.type, i.shape) for i in inputs]
            raise UserError(
                f"{path} is not a recogniser: it takes {taken} and gives {outputs[0].shape}, "
                "wanted is one float32 (N,3,H,W) input and (N,D) embeddings"
            )
        on_cpu = device == "cpu"
        return cls(
            path, session, _read_rule(path), batch_size=1 if on_cpu else batch_size,
            num_streams=len(os.sched_getaffinity(0)) if on_cpu else 1,
        )  # fmt: skip

    def through(self, run: "Run") -> "Recogniser":
        """This recogniser with its network run by another backend, for any number of crops."""
        other = copy(self)
        other._elsewhere = run
        return other

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed aligned crops.

        Args:
            crops: uint8 (N,H,W,3) RGB, H and W as `size`.

        Returns:
            float32 (N, embedding_dim), as the network gives them: not normalised.

        Every run has the same batch, the last one filled up, so that a crop's embedding does not depend on
        how many others there are; on the CPU it depends on none of them, nor on the number of threads.
        """
        assert crops.dtype == np.uint8, crops.dtype
        assert crops.shape[1:] == (*self.size, 3), crops.shape
        if self._elsewhere is not None and len(crops):
            return self._elsewhere(self.normalisation(crops))
        starts = range(0, len(crops), self._batch_size)
        chunks = [crops[start : start + self._batch_size] for start in starts]
        embedded = list(self._streams.map(self._run, chunks) if self._streams else map(self._run, chunks))
        return np.concatenate([*embedded, np.empty((0, self.embedding_dim), np.float32)])

    def _run(self, chunk: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = self._batch_size
        filled = np.concatenate([chunk, np.zeros((batch - len(chunk), *chunk.shape[1:]), np.uint8)])
        try:
            (out,) = self._session.run([self._output], {self._input: self.normalisation(filled)})
        except (_STATE.Fail, _STATE.RuntimeException, _STATE.InvalidArgument) as error:
            raise RunError(f"recogniser {self.path} failed on {batch} crops: {_first_line(error)}") from None
        embeddings: NDArray[np.float32] = out[: len(chunk)]
        return embeddings


def _read_rule(path: Path) -> Normalisation:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return PIXELS if _normalises_itself(path) else INSIGHTFACE
    try:
        values = json.loads(sidecar.read_text())
        rule = Normalisation(values["channels"], _triple(values["mean"]), _triple(values["std"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(_SIDECAR.format(path=sidecar, why=f"{type(error).__name__}: {error}")) from None
    numbers = np.array([rule.mean, rule.std])
    if rule.channels not in ("rgb", "bgr") or not np.isfinite(numbers).all() or numbers[1].min() < 1e-6:
        raise UserError(
            _SIDECAR.format(path=sidecar, why=f"channels {rule.channels!r}, mean {rule.mean}, std {rule.std}")
        )
    return rule


_SIDECAR = (
    '{path}: {why}; wanted is {{"channels": "rgb" or "bgr", "mean": [r, g, b], "std": [r, g, b] above 0}}'
)


def _triple(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _normalises_itself(path: Path) -> bool:
    # insightface's rule for graphs that came from MXNet.
    first = [node.name for node in onnx.load(path, load_external_data=False).graph.node[:8]]
    return any(name.startswith(("Sub", "_minus")) for name in first) and any(
        name.startswith(("Mul", "_mul")) for name in first
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
