"""Who turns pixels into image files: Pillow, or nvImageCodec, which has a card write JPEG.

encode = open_encoder("nvimgcodec", image_format="jpg", quality=95, device="cuda:0")
data = encode(pixels)
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.config import EncoderName
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.write import ImageFormat, encode

Encode = Callable[[NDArray[np.uint8]], bytes]
"""Pixels uint8 (H, W, 3) RGB -> a file; from any thread."""


def open_encoder(name: EncoderName, *, image_format: ImageFormat, quality: int, device: str) -> Encode:
    """The encoder called so; JPEG is 4:4:4 at `quality`, 1 to 100.

    Raises:
        UserError: nvImageCodec is not installed, or is to write PNG.
    """
    if name == "plain":
        return partial(encode, image_format=image_format, quality=quality)
    if image_format != "jpg":
        raise UserError(
            f"encoder {name} writes jpg, not {image_format}: give --image-format jpg, or leave it out"
        )
    return JpegEncoder(quality=quality, device=device)


def describe_encoder(name: EncoderName) -> dict[str, str]:
    """What a document says of the encoder: nothing of the plain one."""
    return {} if name == "plain" else {"encoder": f"nvimgcodec {import_nvimgcodec().__version__}"}


class JpegEncoder:
    """JPEG by nvImageCodec: by nvJPEG on a card, by libjpeg-turbo on a CPU. The same pixels give the same file.

    Raises:
        UserError: it is not installed.
    """

    def __init__(self, *, quality: int, device: str) -> None:
        nvimgcodec = import_nvimgcodec()
        on_cpu = device == "cpu"
        place = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY if on_cpu else int(device.partition(":")[2] or 0)
        self._params = nvimgcodec.EncodeParams(
            quality_type=nvimgcodec.QualityType.QUALITY, quality_value=quality,
            chroma_subsampling=nvimgcodec.ChromaSubsampling.CSS_444,
        )  # fmt: skip
        self._encoder = nvimgcodec.Encoder(device_id=place)
        # Nothing says that an encoder may be called from two threads at once.
        self._lock = threading.Lock()

    def __call__(self, pixels: NDArray[np.uint8]) -> bytes:
        """The file of an image, uint8 (H, W, 3) RGB.

        Raises:
            RunError: nvImageCodec refuses it.
        """
        with self._lock:
            stream = self._encoder.encode(np.ascontiguousarray(pixels), "jpeg", params=self._params)
        if stream is None:
            raise RunError(
                f"nvImageCodec cannot encode an image of {pixels.shape[1]}x{pixels.shape[0]}: leave out "
                "--encoder nvimgcodec"
            )
        return bytes(memoryview(stream))


def import_nvimgcodec() -> Any:
    """The package nvidia.nvimgcodec.

    Raises:
        UserError: it is not installed.
    """
    try:
        import nvidia.nvimgcodec
    except ImportError as error:
        raise UserError(
            f"encoder nvimgcodec: {error}: pip install 'd2r-fast[gpu]', or leave out --encoder nvimgcodec"
        ) from None
    return nvidia.nvimgcodec
