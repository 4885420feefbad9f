"""What a file's header says of how it has to be decoded.

libpng and libjpeg-turbo give the pixels of common files as Pillow does, which calls them too. Transparency, 16 bits,
EXIF orientation, CMYK, animation and the like are matters of interpretation, and so are files with a fault; those are
told apart here, by a walk over the chunks of a PNG (W3C, "Portable Network Graphics", 5.3) or the segments of a JPEG
(ITU-T T.81, Annex B). It unpacks nothing, and takes a few hundredths of the time that unpacking takes.
"""

import re
import struct
import zlib

from d2r_fast.engine.decode import MAX_PIXELS

_PNG = b"\x89PNG\r\n\x1a\n"
_LENGTHS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}
"""Chunks that change no pixel, with the lengths without which Pillow takes them for damage."""
_MOST_TEXT = 4096
_CARRIES_ORIENTATION = (b"Raw profile type", b"XML:com.adobe.xmp")
_GREY, _RGB = 0, 2
_PIECE, _TAIL = 8192, 64
"""libpng unpacks pieces of so many bytes, and does not look at one that lies behind all pixels. The zlib stream's own
checksum may be there, of which Pillow sees that it is wrong; what follows the pixels takes a dozen bytes."""
_SOF = (0xC0, 0xC1, 0xC2)
"""Frames of Huffman-coded baseline, extended and progressive JPEG."""
_SOS, _EOI, _APP0, _APP1, _APP2, _APP14 = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE
_BETWEEN_SCANS = (_SOS, 0xC4, 0xDB, 0xDD)
"""Tables stand between the scans of a progressive JPEG."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""In a scan: 0xFF in the data is followed by 0, and by D0 to D7 where decoding can start again."""


def is_common(data: bytes, *, min_side: int) -> bool:
    """Whether every decoder gives this file the same pixels: 8-bit grey or RGB, upright, whole as far as a look shows.

    PNG: no alpha, palette or transparent colour, all checksums right. JPEG: grey or YCbCr, no EXIF or XMP.
    The sides are at least `min_side` and the image is no larger than `engine.decode` takes.
    """
    try:
        size = _png_size(data) if data.startswith(_PNG) else _jpeg_size(data)
    except (struct.error, IndexError):  # ends within its header
        return False
    return size is not None and min(size) >= max(min_side, 1) and size[0] * size[1] <= MAX_PIXELS


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a common PNG, None for any other file."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR" or depth != 8 or colour not in (_GREY, _RGB):
        return None
    place, name, view = len(_PNG), b"", memoryview(data)
    while name != b"IEND":
        (length,) = struct.unpack_from(">I", data, place)
        name, end = data[place + 4 : place + 8], place + 8 + length
        if struct.unpack_from(">I", data, end) != (zlib.crc32(view[place + 4 : end]),):
            return None
        if name == b"IDAT" and length > _PIECE and 0 < length % _PIECE <= _TAIL:
            return None
        if name not in (b"IHDR", b"IDAT", b"IEND") and not _is_harmless(name, view[place + 8 : end]):
            return None
        place = end + 4
    return (width, height) if place == len(data) else None


def _is_harmless(name: bytes, content: memoryview) -> bool:
    if name == b"tEXt":
        return len(content) <= _MOST_TEXT and not bytes(content).startswith(_CARRIES_ORIENTATION)
    return _LENGTHS.get(name) == len(content)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a common JPEG, None for any other file."""
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(b"\xff\xd9"):
        return None
    place, size, is_jfif = 2, None, False
    while data[place] == 0xFF:
        marker = data[place + 1]
        (length,) = struct.unpack_from(">H", data, place + 2)
        segment = data[place + 4 : place + 2 + length]
        if marker == _SOS:
            return size if _scans_are_whole(data, place) else None
        if marker == _APP0:
            is_jfif = is_jfif or segment.startswith(b"JFIF\0")
        elif marker in (_APP1, _APP14) or (marker == _APP2 and not segment.startswith(b"ICC_PROFILE\0")):
            return None
        elif marker in _SOF:
            size = _frame_size(segment, is_jfif=is_jfif)
        elif (0xC3 <= marker <= 0xCF and marker != 0xC4) or marker < 0xC0 or marker == _EOI:
            return None  # another process of coding, or no segment at all
        place += 2 + length
    return None


def _scans_are_whole(data: bytes, place: int) -> bool:
    """Whether scans follow each other from here to the end, and nothing in them that a fault would leave: libjpeg goes
    on after that as best it can, and Pillow does not."""
    while data[place] == 0xFF and data[place + 1] in _BETWEEN_SCANS:
        (length,) = struct.unpack_from(">H", data, place + 2)
        is_scan = data[place + 1] == _SOS
        place += 2 + length
        if is_scan:
            found = _MARKER.search(data, place)
            place = found.start() if found else len(data)
    return data[place:] == b"\xff\xd9"


def _frame_size(segment: bytes, *, is_jfif: bool) -> tuple[int, int] | None:
    """Width and height by a frame's header, None where its colours are not those of JFIF."""
    depth, height, width, num_components = struct.unpack_from(">BHHB", segment)
    colours = segment[6 : 6 + 3 * num_components : 3]
    ycbcr = num_components == 3 and (is_jfif or colours == b"\1\2\3")
    return (width, height) if depth == 8 and (num_components == 1 or ycbcr) else None
