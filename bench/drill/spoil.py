"""Images as they should not be, and as they may be though they look so."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

Spoil = Callable[[Image.Image, np.random.Generator], bytes]
"""A good picture to the bytes of a file."""


def nothing(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A file of 0 bytes."""
    return b""


def truncated(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A JPEG that ends somewhere in its second half."""
    data = jpeg(image)
    scan = data.index(b"\xff\xda")
    return data[: int(rng.integers(scan + 12, scan + 12 + (len(data) - scan) // 2))]


def text(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Prose."""
    return b"<html><body>404 Not Found</body></html>\n" * int(rng.integers(1, 50))


def cmyk(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A JPEG in printing colours."""
    return jpeg(image.convert("CMYK"))


def deep(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A grey PNG of 16 bits."""
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return _saved(Image.fromarray(grey), "PNG")


def dot(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A PNG of one pixel."""
    return _saved(image.resize((1, 1)), "PNG")


def bad_exif(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A JPEG whose EXIF block is noise."""
    block = b"Exif\0\0" + rng.bytes(int(rng.integers(1, 400)))
    data = jpeg(image)
    return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2) + block + data[2:]


def no_face(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A wall."""
    shade = tuple(int(value) for value in rng.integers(60, 200, 3))
    return _saved(Image.new("RGB", image.size, shade), "PNG")


def two_faces(image: Image.Image, rng: np.random.Generator) -> bytes:
    """The picture twice, side by side."""
    pair = Image.new("RGB", (2 * image.width, image.height))
    pair.paste(image, (0, 0))
    pair.paste(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (image.width, 0))
    return _saved(pair, "PNG")


KINDS: dict[str, tuple[Spoil, str]] = {
    "0 bytes": (nothing, "png"), "truncated JPEG": (truncated, "jpg"), "text named .jpg": (text, "jpg"),
    "CMYK": (cmyk, "jpg"), "16-bit PNG": (deep, "png"), "1x1": (dot, "png"), "EXIF garbage": (bad_exif, "jpg"),
    "no face": (no_face, "png"), "two faces": (two_faces, "png"),
}  # fmt: skip
"""What is done, and the suffix that the file then has."""


def jpeg(image: Image.Image) -> bytes:
    """Its file."""
    return _saved(image, "JPEG")


def _saved(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()
