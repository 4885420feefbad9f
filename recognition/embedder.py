"""Any recogniser as a function: aligned crops in, raw embeddings out."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2r_fast.engine.backends.cuda import compute_exactly
from d2r_fast.engine.batch import fixed_batches
from d2r_fast.engine.config import Precision
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.onnx_session import NoProvider
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.recognition.backbone import lay_out
from d2r_fast.recognition.backbone_config import Channels
from d2r_fast.recognition.iresnet import IMAGE_SIZE
from d2r_fast.recognition.network_file import LoadedNetwork, load_network, source_of

LOWER: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Embedder(Protocol):
    """Crops uint8 (N, *size, 3) RGB -> embeddings float32 (N, embedding_dim), not normalised.

    Attributes:
        embedding_dim: length of an embedding.
        size: (height, width) of the crops, in pixels.
        name: the file's name and the first digits of its SHA-256.
    """

    @property
    def embedding_dim(self) -> int: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def name(self) -> str: ...
    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]: ...


def open_embedder(
    path: Path, *, device: str, batch_size: int = 128, precision: Precision = "fp32"
) -> Embedder:
    """The recogniser of a run folder, a network's folder, a checkpoint, or an ONNX file.

    Args:
        path: as load_network takes it, or NAME.onnx with its sidecar (engine/recogniser.py).
        device: auto, cpu, cuda or cuda:N.
        batch_size: crops of one run. An ONNX graph runs crop by crop on the CPU, whatever this says.
        precision: of the convolutions; the last layer is in float32 always. An ONNX graph computes as it is written.

    Raises:
        UserError: nothing usable there, a device that is not there, or an ONNX graph with a precision.
    """
    if path.suffix == ".onnx":
        return OnnxEmbedder(path, device=device, batch_size=batch_size, precision=precision)
    network = load_network(path)
    return TorchEmbedder(network, device=device, batch_size=batch_size, precision=precision)


class TorchEmbedder:
    """A network in torch.

    Every run has `batch_size` crops, the last one filled up, so that an embedding does not depend on how many others
    there are.
    """

    def __init__(
        self, network: LoadedNetwork, *, device: str, batch_size: int = 128, precision: Precision = "fp32"
    ) -> None:
        self._device, self._batch_size = find_device(device), batch_size
        compute_exactly(self._device)
        self._module = lay_out(network.module.eval(), network.config, self._device)
        self._lower = LOWER.get(precision)
        self._channels: Channels = network.config.channel_order
        self.embedding_dim = network.config.embedding_dim
        self.size = (IMAGE_SIZE, IMAGE_SIZE)
        self.name = network.source

    @torch.inference_mode()
    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert crops.dtype == np.uint8, crops.dtype
        assert crops.shape[1:] == (*self.size, 3), crops.shape
        out = np.empty((len(crops), self.embedding_dim), np.float32)
        for start, (rows, count) in zip(
            range(0, len(crops), self._batch_size), fixed_batches(len(crops), self._batch_size), strict=True
        ):
            pixels = torch.from_numpy(crops[rows.numpy()]).to(self._device)
            out[start : start + count] = self._embed(pixels)[:count].cpu().numpy()
        return out

    def _embed(self, pixels: Tensor) -> Tensor:
        with torch.autocast(
            self._device.partition(":")[0], self._lower or torch.bfloat16, enabled=self._lower is not None
        ):
            embeddings: Tensor = self._module(normalise(pixels, self._channels))
        return embeddings.float()


def normalise(pixels: Tensor, channels: Channels) -> Tensor:
    """Crops uint8 (N,H,W,3) RGB -> float32 (N,3,H,W) in [-1, 1], colours in that order, rows of pixels in memory."""
    ordered = pixels if channels == "rgb" else pixels.flip(-1)
    return ordered.float().div_(255).sub_(0.5).div_(0.5).permute(0, 3, 1, 2)


class OnnxEmbedder:
    """An ONNX graph with its sidecar."""

    def __init__(self, path: Path, *, device: str, batch_size: int, precision: Precision) -> None:
        if precision != "fp32":
            raise UserError(
                f"precision {precision} for {path}: an ONNX graph computes as it is written, give fp32 or the network "
                "it was made from"
            )
        if not path.is_file():
            raise UserError(f"{path} is missing: give a run folder, an ONNX recogniser or a checkpoint")
        try:
            self._recogniser = Recogniser.load(path, device=find_device(device), batch_size=batch_size)
        except NoProvider as error:
            raise UserError(f"{error.reason}, or choose --device cpu") from None
        self.embedding_dim, self.size = self._recogniser.embedding_dim, self._recogniser.size
        self.name = source_of(path, path)

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._recogniser(crops)
