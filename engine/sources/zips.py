"""Zips of images, as DigiFace-1M is published: <identity>/<image>.png, or that in a folder of the zip's name.

The directory at a zip's end is read once and kept as columns: 360,000 members take seconds and no object each. An
image is one read at its offset and its unpacking, which needs no handle of its own.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.open_files import OpenFiles
from d2r_fast.engine.sources.packed import DamagedImage, Entries, Files, PackedSource
from d2r_fast.engine.sources.tree import Folders, check_name, is_wanted, place

MAX_BYTES = 1 << 30
"""Of an unpacked image. None that decodes is larger, and a few megabytes of zip can unpack to more than memory."""

_LOCAL = struct.Struct("<4s5H3I2H")
_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1
_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_ROOM = 512
"""Bytes that the name and extra fields before an image rarely exceed; the directory does not say how long they are."""


def open_zips(root: Path, paths: Sequence[Path], *, labelled: bool) -> PackedSource:
    """Open zips, whose identities count as of one folder; an image name that an identity has twice is refused.

    Raises:
        UserError: a zip cannot be read, is damaged, encrypted, or holds members of unsafe names, or no images.
    """
    entries = Entries()
    folders = [_list(path, number, entries, labelled=labelled) for number, path in enumerate(paths)]
    files = OpenFiles(paths)

    def read(place: Sequence[int]) -> bytes:
        return _read(files, place)

    def shown(file: int, identity: str, name: str) -> Path:
        return folders[file].path(paths[file], identity, name)

    return PackedSource(Files(root, paths, read, shown), entries)


def _list(path: Path, file: int, entries: Entries, *, labelled: bool) -> Folders:
    """Add a zip's images; how its folders tell whom they show."""
    members = [(name, info) for name, info in _members(path) if is_wanted(name)]
    for name, info in members:
        check_name(name, path)
        _check_readable(path, name, info)
        _check_place(path, name, info)
    placed, folders = place([name for name, _ in members], path, labelled=labelled)
    for identity, name, number in placed:
        info = members[number][1]
        entries.add(
            identity, name, file, info.header_offset, info.compress_size, info.file_size, info.CRC,
            info.compress_type,
        )  # fmt: skip
    return folders


def _members(path: Path) -> Iterable[tuple[str, ZipInfo]]:
    """Names and entries of a zip's directory."""
    try:
        with ZipFile(path) as opened:
            return [(_name(info), info) for info in opened.infolist()]
    except (BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise UserError(f"source {path} is no whole zip ({error}): copy it again") from None
    except OSError as error:
        raise UserError(
            f"source {path} cannot be read ({error.strerror}): see that it is a readable file"
        ) from None


def _name(info: ZipInfo) -> str:
    """A member's name. Info-ZIP keeps it in UTF-8 as an extra field where the plain one is in another encoding."""
    name = info.orig_filename
    if name.isascii() or info.flag_bits & _UTF8:
        return name
    extra = info.extra
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == _UNICODE_PATH and length > 5:
            checksum = struct.unpack_from("<I", extra, 5)[0]
            if checksum == zlib.crc32(name.encode("cp437")):
                return extra[9 : 4 + length].decode()
        extra = extra[4 + length :]
    return name


def _check_readable(path: Path, name: str, info: ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise UserError(
            f"member {name} of {path} is encrypted: unpack it and make the zip again without a password"
        )
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise UserError(
            f"member {name} of {path} is packed by method {info.compress_type}: make the zip again, stored (0) or "
            "deflated (8)"
        )


def _check_place(path: Path, name: str, info: ZipInfo) -> None:
    """See that the numbers are some that a file can have; whether they are right shows when it is read."""
    if max(info.header_offset, info.compress_size, info.file_size) >= 1 << 63:
        raise UserError(
            f"source {path} is no whole zip (no file is as large as {name} would be): copy it again"
        )


def _read(files: OpenFiles, place: Sequence[int]) -> bytes:
    """An image's bytes, checked against their check sum."""
    file, offset, packed_size, size, checksum, method = place
    if max(size, packed_size) > MAX_BYTES:
        raise DamagedImage(f"{size:,} bytes, at most {MAX_BYTES:,}")
    packed = _packed(files, file, offset, packed_size)
    data = _unpack(packed, size) if method == ZIP_DEFLATED else packed
    if len(data) != size or zlib.crc32(data) != checksum:
        raise DamagedImage("damaged in its zip: the check sum differs")
    return data


def _packed(files: OpenFiles, file: int, offset: int, size: int) -> bytes:
    """A member's bytes as the zip holds them, fewer where it is cut short."""
    data = files.read(file, _LOCAL.size + _ROOM + size, offset)
    if len(data) < _LOCAL.size or not data.startswith(_SIGNATURE):
        raise DamagedImage("damaged in its zip: no member begins where the directory says")
    *_, name_length, extra_length = _LOCAL.unpack_from(data)
    start = _LOCAL.size + name_length + extra_length
    if start + size <= len(data):
        return data[start : start + size]
    return files.read(file, size, offset + start)


def _unpack(packed: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error:
        raise DamagedImage("damaged in its zip: it cannot be unpacked") from None
