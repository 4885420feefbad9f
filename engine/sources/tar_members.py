"""The files in a tar, by their headers alone: one read of two blocks for each.

Plain headers (ustar, and GNU's without extensions) are read here, since there are three for every image of a
WebDataset; a tar with others (long names, pax, sizes from 8 GiB) is left to tarfile.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.sources.tree import is_wanted

_BLOCK = 512
_FILES, _FOLDER = (b"0", b"\0", b"7"), b"5"
_USTAR = b"ustar\0"

ADVICE = "copy it again, or make it again"


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: `size` bytes at `offset`."""

    name: str
    offset: int
    size: int
    start: bytes
    """As much of the content as fits the block behind the header."""


class _Extended(Exception):
    """A header of another kind than the plain ones."""


def tar_members(path: Path) -> list[Member]:
    """Files in a tar, in order, called as they are there.

    Raises:
        UserError: it cannot be read, is damaged, cut short or compressed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return list(_plain(descriptor, path))
        except _Extended:
            return list(_any(path))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(
            f"source {path} cannot be read ({error.strerror}): see that it is a readable file"
        ) from None


def _plain(descriptor: int, path: Path) -> Iterator[Member]:
    end, offset = os.fstat(descriptor).st_size, 0
    while (block := os.pread(descriptor, 2 * _BLOCK, offset))[:_BLOCK].strip(b"\0"):
        head = block[:_BLOCK]
        if not _is_header(head):
            raise UserError(f"{path} is damaged at byte {offset}: {ADVICE}")
        kind = head[156:157]
        size = _size(head) if kind in _FILES else 0  # a folder's, where it has one, is of no data
        if offset + _BLOCK + size > end:
            raise UserError(f"{path} is damaged at byte {offset}: {ADVICE}")
        if kind in _FILES:
            yield Member(_name(head), offset + _BLOCK, size, block[_BLOCK : _BLOCK + size])
        elif kind != _FOLDER:
            raise _Extended
        offset += _BLOCK + -(-size // _BLOCK) * _BLOCK
    if len(block) < _BLOCK:
        raise UserError(f"{path} is cut short at byte {offset}, it has no end mark: {ADVICE}")


def _is_header(head: bytes) -> bool:
    """Whether the block's check sum says that it is a header."""
    try:
        checksum = int(head[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return len(head) == _BLOCK and sum(head) - sum(head[148:156]) + 8 * ord(" ") == checksum


def _size(head: bytes) -> int:
    try:
        return int(head[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        raise _Extended from None


def _name(head: bytes) -> str:
    name, prefix = (
        part.partition(b"\0")[0].decode(errors="surrogateescape") for part in (head[:100], head[345:500])
    )
    return f"{prefix}/{name}" if prefix and head[257:263] == _USTAR else name


def _any(path: Path) -> Iterator[Member]:
    """The same by tarfile, of any kind of header."""
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            for member in tar:
                if (not member.isfile() or member.issparse()) and is_wanted(member.name.removeprefix("./")):
                    raise UserError(
                        f"member {member.name} of {path} is a link or device, not a file: make the tar again with "
                        "--dereference --hard-dereference"
                    )
                if member.isfile():
                    file.seek(member.offset_data)
                    start = file.read(min(_BLOCK, member.size))
                    yield Member(member.name, member.offset_data, member.size, start)
            file.seek(tar.offset)  # tarfile takes a damaged header for the end
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise UserError(f"{path} is damaged or cut short at byte {tar.offset}: {ADVICE}")
    except UserError:  # which is a ValueError
        raise
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {ADVICE}") from None
