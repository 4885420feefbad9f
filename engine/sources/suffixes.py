"""What an image file is called whose name nobody kept."""

_STARTS = {b"\x89PNG": "png", b"RIFF": "webp", b"II*\0": "tif", b"MM\0*": "tif"}
HEAD = 4
"""Bytes that tell."""


def suffix_of(data: bytes) -> str:
    """The suffix, without its dot, of a file that begins so; jpg where that says nothing."""
    return "bmp" if data.startswith(b"BM") else _STARTS.get(data[:HEAD], "jpg")
