"""Decoding: every kind of file that face data really comes in, against arrays known beforehand."""

import io
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2r_fast.engine.decode import DecodeError, decode

HEIGHT, WIDTH = 40, 56


def picture() -> np.ndarray:
    """uint8 (40, 56, 3): smooth, different in every corner and channel."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([y * 6, x * 4, 255 - (x + y) * 2], axis=-1).astype(np.uint8)


def save(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(data: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    return save(Image.fromarray(data, mode), "PNG", **options)


def raw_png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]
) -> bytes:
    """A PNG written out by hand, for kinds that Pillow does not write. `rows` without filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    stride = len(rows) // height if height else 0
    filtered = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(chunk(kind, data) for kind, data in extra)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body
            + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b""))  # fmt: skip


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < tolerance


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_are_exact(format: str) -> None:
    found = decode(save(Image.fromarray(picture()), format))
    np.testing.assert_array_equal(found, picture())
    assert found.flags.c_contiguous


def test_lossless_webp_is_exact() -> None:
    np.testing.assert_array_equal(decode(save(Image.fromarray(picture()), "WEBP", lossless=True)), picture())


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"quality": 95}),
    ],
)
def test_lossy_formats_are_close(format: str, options: dict[str, object]) -> None:
    close(decode(save(Image.fromarray(picture()), format, **options)), picture(), 3)


def test_grey_one_bit_and_palette() -> None:
    grey = picture()[..., 0]
    np.testing.assert_array_equal(decode(png(grey)), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(decode(save(Image.fromarray(grey), "JPEG", quality=100))[..., 0], decode(
        save(Image.fromarray(grey), "JPEG", quality=100))[..., 2])  # fmt: skip
    bits = grey > 100
    np.testing.assert_array_equal(
        decode(save(Image.fromarray(bits), "PNG")), np.repeat(bits[..., None] * np.uint8(255), 3, 2)
    )
    few = (picture() // 128) * 128
    paletted = Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    np.testing.assert_array_equal(decode(save(paletted, "PNG")), few)


def test_transparency_lies_over_black() -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:20], alpha[20:30] = 255, 128
    expected = np.round(picture() * (alpha[..., None] / 255)).astype(np.uint8)
    np.testing.assert_array_equal(decode(png(np.dstack([picture(), alpha]))), expected)
    webp = save(Image.fromarray(np.dstack([picture(), alpha])), "WEBP", lossless=True, exact=True)
    np.testing.assert_array_equal(decode(webp), expected)
    grey = np.dstack([picture()[..., 0], alpha])
    np.testing.assert_array_equal(decode(png(grey)), np.repeat(expected[..., :1], 3, axis=2))


def test_transparent_colours_are_black() -> None:
    grey = picture()[..., 0].copy()
    grey[:5] = 7
    expected = np.repeat(np.where(grey == 7, 0, grey)[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(png(grey, transparency=7)), expected)
    colour = picture()
    colour[:5] = (1, 2, 3)
    hidden = np.where((colour == (1, 2, 3)).all(-1, keepdims=True), 0, colour)
    np.testing.assert_array_equal(decode(png(colour, transparency=(1, 2, 3))), hidden)
    index = (picture()[..., 0] // 64).astype(np.uint8)
    paletted = Image.fromarray(index, "L").convert("P")
    paletted.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    table = np.array([[10, 20, 30], [20, 25, 30], [0, 0, 0], [100, 110, 120]])
    found = decode(save(paletted, "PNG", transparency=bytes([255, 128, 0, 255])))
    np.testing.assert_array_equal(found[(index != 1)], table[index][index != 1])
    close(found[index == 1], table[index][index == 1], 1)


def test_sixteen_bits_keep_their_high_byte() -> None:
    wide = np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH) * 65535 // (HEIGHT * WIDTH - 1)
    expected = np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2)
    assert expected.max() == 255
    assert len(np.unique(expected)) == 256
    big = wide.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(raw_png(WIDTH, HEIGHT, 16, 0, big)), expected)
    triple = np.repeat(wide[..., None], 3, axis=2).astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(raw_png(WIDTH, HEIGHT, 16, 2, triple)), expected)
    np.testing.assert_array_equal(decode(save(Image.fromarray(wide.astype(np.uint16)), "TIFF")), expected)
    hidden = raw_png(WIDTH, HEIGHT, 16, 0, big, (b"tRNS", struct.pack(">H", int(wide[7, 3]))))
    expected[7, 3] = 0
    np.testing.assert_array_equal(decode(hidden), expected)


def test_eight_bits_said_in_sixteen_are_exact() -> None:
    wide = (picture()[..., 0].astype(np.uint16) * 257).astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(raw_png(WIDTH, HEIGHT, 16, 0, wide))[..., 0], picture()[..., 0])


def test_cmyk_jpeg() -> None:
    ink = Image.fromarray(picture()).convert("CMYK")
    close(decode(save(ink, "JPEG", quality=95)), picture(), 4)


def test_animations_give_their_first_frame() -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = save(frames[0], format, save_all=True, append_images=frames[1:], duration=40, **options)
        np.testing.assert_array_equal(decode(data), picture())
    pages = save(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(pages), picture())


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    plain = decode(save(Image.fromarray(picture()), format, **options))
    found = decode(save(Image.fromarray(picture()), format, exif=exif, **options))
    np.testing.assert_array_equal(found, TURNED[orientation](plain))
    assert found.flags.c_contiguous


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"garbage" * 9,
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xfe" * 40,
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0",  # orientation 99
    ],
)
def test_broken_exif_spoils_no_image(exif: bytes) -> None:
    head = save(Image.fromarray(picture()), "JPEG", quality=100, subsampling=0)
    block = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    without_jfif = head[:2] + block + head[20:]  # so that Pillow looks for the resolution in the EXIF block
    close(decode(without_jfif), picture(), 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_refused(format: str) -> None:
    data = save(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), format)
    for length in (8, 30, len(data) // 2, len(data) - 200):
        with pytest.raises(DecodeError, match="truncated or damaged"):
            decode(data[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"this is a text\n" * 20, "not a PNG, JPEG, WebP, BMP or TIFF image"),
        (bytes(1000), "not a PNG, JPEG, WebP, BMP or TIFF image"),
        (save(Image.new("P", (20, 20)), "GIF"), "not a PNG, JPEG, WebP, BMP or TIFF image"),
        (png(np.zeros((1, 1, 3), np.uint8)), "too small: 1x1, at least 12 pixels a side"),
        (png(np.zeros((11, 300, 3), np.uint8)), "too small: 300x11, at least 12 pixels a side"),
        (raw_png(0, 0, 8, 2, b""), "truncated or damaged"),
        (raw_png(8001, 8000, 8, 0, b""), "too large: 8001x8000, at most 64 megapixels"),
        (raw_png(30000, 4000, 8, 0, b""), "too large: 30000x4000, at most 64 megapixels"),
        (raw_png(50000, 50000, 8, 0, b""), "too large, at most 64 megapixels"),
        (
            save(Image.fromarray(np.zeros((20, 20), np.float32)), "TIFF"),
            "floating-point pixels, give 8 or 16 bits",
        ),
        (
            save(Image.fromarray(np.full((20, 20), 70000, np.int32)), "TIFF"),
            "32-bit pixels, give 8 or 16 bits",
        ),
    ],
)
def test_reasons(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as error:
        decode(data)
    assert error.value.reason == str(error.value) == reason


def test_sizes_at_the_limits() -> None:
    assert decode(png(np.zeros((12, 12, 3), np.uint8))).shape == (12, 12, 3)
    with pytest.raises(DecodeError, match="truncated"):  # 64 megapixels are allowed, these are just not there
        decode(raw_png(8000, 8000, 8, 0, b""))


def test_damaged_files_only_ever_raise_decode_error() -> None:
    """Bytes changed at random, cut and doubled: an image or a DecodeError, no warning, nothing else."""
    rng = random.Random(3)
    image = Image.fromarray(picture())
    whole = [save(image, format) for format in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")]
    whole.append(save(image.convert("P"), "PNG", transparency=0))
    whole.append(save(image, "TIFF", compression="tiff_lzw"))
    reasons = []
    for _ in range(1500):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(len(data), rng.choice((64, 1 << 20))))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        try:
            found = decode(bytes(data))
        except DecodeError as error:
            reasons.append(error.reason)
        else:
            assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)
    assert len(reasons) > 300
    assert max(map(len, reasons)) < 80


def test_threads_keep_the_warning_filters() -> None:
    data = png(picture())
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(decode, [data] * 200))
    assert all(np.array_equal(image, picture()) for image in found)
    assert list(warnings.filters) == before


def test_real_renders(shared: Path) -> None:
    image = decode((shared / "digiface-mini" / "0" / "0.png").read_bytes())
    assert image.shape == (112, 112, 3)
    photo = decode((shared / "faces" / "ageitgey_obama.jpg").read_bytes())
    assert photo.shape == (1137, 910, 3)


def test_small_images_are_read_where_no_face_is_looked_for() -> None:
    pixels = np.arange(3, dtype=np.uint8).reshape(1, 1, 3)
    np.testing.assert_array_equal(decode(png(pixels), min_side=1), pixels)
    with pytest.raises(DecodeError, match="too small: 1x1, at least 2 pixels a side"):
        decode(png(pixels), min_side=2)
