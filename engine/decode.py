"""Image files to pixels: whatever a face data set really holds, as 8-bit RGB.

The suffix is never trusted; the bytes say what they are.
"""

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MIN_SIDE = 12
"""Pixels. MTCNN's first network looks at 12x12, so nothing smaller can hold a face that it finds."""
MAX_PIXELS = 64_000_000
"""A file of kilobytes can unpack to gigabytes; no camera that takes portraits makes more than this."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
# What Pillow's parsers raise on damaged files; anything else is a bug and stays loud.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, ArithmeticError)
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_LOCK = threading.Lock()


class DecodeError(ValueError):
    """These bytes are no usable image; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(data: bytes, *, min_side: int = MIN_SIDE) -> NDArray[np.uint8]:
    """Pixels of a PNG, JPEG, WebP, BMP or TIFF file: uint8 (H, W, 3) RGB, upright, C-contiguous.

    The EXIF orientation is applied; of an animation the first frame is taken. 16-bit samples keep their high
    byte, as Pillow does itself for colour, so that grey and colour files of one picture decode alike.
    Transparency is laid over black: the border of an aligned crop is black too (ArcFace's warp pads with 0),
    and the colour under fully transparent pixels is arbitrary.

    Args:
        data: the file's bytes.
        min_side: pixels that the shorter side must have; where no face is looked for, 1 will do.

    Raises:
        DecodeError: no bytes, no image, cut short, too small or too large, of no 8- or 16-bit kind.
    """
    image = _open(data)
    _check_size(image.width, image.height, min_side=min_side)
    try:
        _load(image)
        orientation = _orientation(image)
        pixels = _rgb(image)
    except DecodeError:
        raise
    except _DAMAGE:
        raise DecodeError("truncated or damaged") from None
    if orientation in _UPRIGHT:
        pixels = np.asarray(Image.fromarray(pixels).transpose(_UPRIGHT[orientation]))
    return np.ascontiguousarray(pixels)


def _open(data: bytes) -> Image.Image:
    """The image with its header read and its pixels not."""
    if not data:
        raise DecodeError("empty file")
    try:
        with _quiet():
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DecodeError(f"too large, at most {MAX_PIXELS / 1e6:.0f} megapixels") from None
    except _DAMAGE:
        known = data.startswith(_SIGNATURES)
        raise DecodeError(
            "truncated or damaged" if known else "not a PNG, JPEG, WebP, BMP or TIFF image"
        ) from None


def _check_size(width: int, height: int, *, min_side: int) -> None:
    if min(width, height) < min_side:
        raise DecodeError(f"too small: {width}x{height}, at least {min_side} pixels a side")
    if width * height > MAX_PIXELS:
        raise DecodeError(f"too large: {width}x{height}, at most {MAX_PIXELS / 1e6:.0f} megapixels")


def _load(image: Image.Image) -> None:
    """Read the pixels. Pillow reads a TIFF's tags a second time here, and turns it upright by them."""
    with _quiet() if image.format == "TIFF" else nullcontext():
        image.load()


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or the EXIF block is garbage, which spoils no pixel."""
    try:
        with _quiet():
            return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DAMAGE:
        return 1


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.repeat(_high_byte(image)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise DecodeError("floating-point pixels, give 8 or 16 bits")
    if not image.has_transparency_data:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
    return ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)


def _high_byte(image: Image.Image) -> NDArray[np.uint8]:
    """16-bit grey (H, W), in Pillow's modes I;16 and I, to uint8; Pillow's own convert("L") clips at 255."""
    grey = np.array(image)
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise DecodeError("32-bit pixels, give 8 or 16 bits")
    if "transparency" in image.info:
        grey[grey == image.info["transparency"]] = 0
    return (grey >> 8).astype(np.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns about odd metadata, which has no bearing on pixels. The warning filters belong to the
    whole process, so threads that decode take turns with them; headers are short."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
