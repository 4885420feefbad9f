"""InsightFace's RecordIO files: `train.rec` holds the records, `train.idx` says where each one begins.

A record is a magic word, a word of flag and length, the payload, and zeros up to a multiple of four bytes. A
payload in which the magic word stands at a multiple of four bytes is split there: the word is left out, and
the parts follow one another as records of flag 1 (first), 2 (between) and 3 (last). Flag 0 is a whole record.

The payload is a header (flag uint32, label float32, id uint64, id2 uint64, little-endian), then `flag` float32
labels, which take the place of the header's own where there are any, then the bytes of an image file.
"""

import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import HashingFile, open_atomic

MAGIC = 0xCED7230A
MAX_BYTES = 2**29 - 1
"""The length has 29 bits; the other 3 are the flag."""

_MAGIC_BYTES = struct.pack("<I", MAGIC)
_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_EXACT = 2**24
_MAX_LABELS = 1 << 20
"""An identity record has two. Beyond this the header is garbage, and believing it would take the memory."""


class RecordError(OSError):
    """One record is damaged, which says nothing about the others; the text says where and how."""


class Readable(Protocol):
    """What gives `size` bytes at an offset, fewer only at its end."""

    def __call__(self, size: int, offset: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Record:
    """A record's labels, float32 (1,) or (flag,), its two numbers and the image file's bytes."""

    labels: NDArray[np.float32]
    data: bytes
    flag: int = 0
    id: int = 0
    id2: int = 0


def unpack(payload: bytes) -> Record:
    """The record that a payload holds.

    Raises:
        RecordError: it is too short for its header or for the labels that it announces.
    """
    if len(payload) < _HEADER.size:
        raise RecordError(f"{len(payload)} bytes, and a header takes {_HEADER.size}")
    flag, label, first, second = _HEADER.unpack_from(payload)
    if flag > _MAX_LABELS or _HEADER.size + 4 * flag > len(payload):
        raise RecordError(f"{len(payload)} bytes, and the header announces {flag} labels")
    start = _HEADER.size + 4 * flag
    labels = np.frombuffer(payload, "<f4", flag, _HEADER.size) if flag else np.array([label], np.float32)
    return Record(labels.astype(np.float32), payload[start:], flag, first, second)


def pack(record: Record) -> bytes:
    """The payload that holds a record: `labels` follow the header where `flag` is not 0."""
    assert record.flag in (0, len(record.labels)), "flag counts the labels behind the header"
    label = 0.0 if record.flag else float(record.labels[0])
    head = _HEADER.pack(record.flag, label, record.id, record.id2)
    behind = record.labels.astype("<f4").tobytes() if record.flag else b""
    return head + behind + record.data


def read_payload(read: Readable, offset: int) -> bytes:
    """The payload of the record that begins at `offset`, its parts put together again.

    Raises:
        RecordError: no record begins there, or the file ends within it.
    """
    parts: list[bytes] = []
    while True:
        flag, length = _frame(read(_FRAME.size, offset), offset)
        if flag not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            raise RecordError(f"part {flag} at byte {offset} has no place there")
        part = read(length, offset + _FRAME.size)
        if len(part) < length:
            raise RecordError(f"the file ends within the record at byte {offset}")
        parts.append(part)
        if flag in (_WHOLE, _LAST):
            return _MAGIC_BYTES.join(parts)
        offset += _FRAME.size + _padded(length)


def frames(payload: bytes) -> Iterator[bytes]:
    """The bytes that a file holds of a payload: one framed part, or several where the magic word occurs in it."""
    if len(payload) > MAX_BYTES:
        raise UserError(f"a record of {len(payload):,} bytes: RecordIO holds at most {MAX_BYTES:,}")
    parts = list(_split(payload))
    for number, part in enumerate(parts):
        flag = _WHOLE if len(parts) == 1 else _FIRST if number == 0 else _MIDDLE
        flag = _LAST if number == len(parts) - 1 > 0 else flag
        yield _FRAME.pack(MAGIC, flag << 29 | len(part)) + part + bytes(_padded(len(part)) - len(part))


def _split(payload: bytes) -> Iterator[bytes]:
    start = at = 0
    while (at := payload.find(_MAGIC_BYTES, at)) >= 0:
        if at % 4:
            at += 1
            continue
        yield payload[start:at]
        start = at = at + 4
    yield payload[start:]


def _frame(data: bytes, offset: int) -> tuple[int, int]:
    if len(data) < _FRAME.size:
        raise RecordError(f"the file ends at byte {offset}, where a record should begin")
    magic, word = _FRAME.unpack(data)
    if magic != MAGIC:
        raise RecordError(f"no record begins at byte {offset} (bad magic word {magic:#010x})")
    return word >> 29, word & MAX_BYTES


def _padded(length: int) -> int:
    return -(-length // 4) * 4


def read_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys and offsets of an index file, in its order: lines of a key, a tab and a byte offset.

    Raises:
        UserError: it cannot be read, is empty, holds anything else, or a key twice.
    """
    try:
        text = path.read_bytes()
        with warnings.catch_warnings(action="error"):  # numpy only warns of what is no number
            numbers = np.fromstring(text, np.int64, sep=" ")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a folder with train.rec and train.idx"
        ) from None
    except (ValueError, DeprecationWarning):
        raise UserError(f"{path} is no index: expected lines of a key, a tab and a byte offset") from None
    if not len(numbers) or len(numbers) % 2 or bool((numbers < 0).any()):
        raise UserError(f"{path} is no index: expected lines of a key, a tab and a byte offset, at least one")
    keys, offsets = numbers[::2].copy(), numbers[1::2].copy()
    in_order = np.sort(keys)
    twice = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(twice):
        raise UserError(f"{path} has key {twice[0]} twice: make the index again")
    return keys, offsets


def read_heads(path: Path, offsets: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Flag and first label of the records of `path` at `offsets`, without their images: uint32 (N,), float32 (N,).

    Every record is checked to begin where it should and to end within the file.

    Raises:
        RecordError: one does not.
    """
    size = path.stat().st_size
    flags, labels = np.empty(len(offsets), np.uint32), np.empty(len(offsets), np.float32)
    data = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    for start in range(0, len(offsets), 1 << 16):
        part = slice(start, start + (1 << 16))
        flags[part], labels[part] = _heads(data, offsets[part])
    return flags, labels


def _heads(
    data: NDArray[np.uint8], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """As read_heads, of some records at once: frame (8 bytes), header (24) and the label behind it (4)."""
    wanted = offsets[:, None] + np.arange(36)
    words = data.take(wanted, mode="clip").view("<u4") if len(data) else np.zeros((len(offsets), 9), "<u4")
    length, part = words[:, 1] & MAX_BYTES, words[:, 1] >> 29
    least = np.where(words[:, 2] > 0, 28, 24)
    plain = (
        (words[:, 0] == MAGIC) & (part == _WHOLE) & (length >= least) & (offsets + 8 + length <= len(data))
    )
    flags = words[:, 2].copy()
    labels = np.where(flags > 0, words[:, 8], words[:, 3]).astype("<u4").view("<f4").astype(np.float32)
    read = _reader(data)
    for row in np.flatnonzero(~plain):  # split records, which are rare, and damaged ones, which raise
        record = unpack(read_payload(read, int(offsets[row])))
        flags[row], labels[row] = record.flag, record.labels[0]
    return flags, labels


def _reader(data: NDArray[np.uint8]) -> Readable:
    def read(size: int, offset: int, /) -> bytes:
        return data[offset : offset + size].tobytes()

    return read


class RecordWriter:
    """Writes records one after another and remembers where each began."""

    def __init__(self, records: HashingFile, index: HashingFile) -> None:
        self._records, self._index = records, index

    def write(self, key: int, record: Record) -> None:
        """Append a record under `key`."""
        self._index.write(f"{key}\t{self._records.tell()}\n".encode())
        for frame in frames(pack(record)):
            self._records.write(frame)


@contextmanager
def open_writer(folder: Path) -> Iterator[RecordWriter]:
    """Writes `train.rec` and `train.idx` into `folder`; both appear when the block ends, not at all if it raises.

    Raises:
        RunError: the disk is full.
        UserError: the folder may not be written to.
    """
    with ExitStack() as files:
        records = files.enter_context(open_atomic(folder / "train.rec"))
        yield RecordWriter(records, files.enter_context(open_atomic(folder / "train.idx")))


def write_identities(folder: Path, images: Iterable[bytes], *, counts: Sequence[int]) -> None:
    """A set in InsightFace's own form: images by identity from key 1, after them a record for each identity.

    Record 0 says (A, B): keys 1 to A-1 are images, A to B-1 identities with their [first, last) image keys.

    Args:
        images: the files, identity after identity.
        counts: images of each identity.

    Raises:
        UserError: there are more than labels can number; or as open_writer does.
        RunError: as open_writer does.
    """
    end = 1 + sum(counts)
    head = _labelled(end, end + len(counts))
    labels = (label for label, count in enumerate(counts) for _ in range(count))
    with open_writer(folder) as writer:
        writer.write(0, head)
        for key, (label, image) in enumerate(zip(labels, images, strict=True), start=1):
            writer.write(key, _image(key, label, image))
        first = 1
        for key, count in enumerate(counts, start=end):
            writer.write(key, _labelled(first, first + count))
            first += count


def write_images(folder: Path, images: Iterable[tuple[int, int, bytes]]) -> None:
    """A set in im2rec's form: records of (key, label, file) as they come, and none of identities.

    Raises:
        UserError: a label is more than float32 holds exactly; or as open_writer does.
        RunError: as open_writer does.
    """
    with open_writer(folder) as writer:
        for key, label, image in images:
            writer.write(key, _image(key, label, image))


def _image(key: int, label: int, data: bytes) -> Record:
    return Record(_exact(label), data, id=key)


def _labelled(*labels: int) -> Record:
    return Record(_exact(*labels), b"", flag=len(labels))


def _exact(*labels: int) -> NDArray[np.float32]:
    if max(labels) > _EXACT:
        raise UserError(
            f"{max(labels):,} images and identities: InsightFace's records number them by float32, exact up to "
            f"{_EXACT:,}: split the set, or use --layout im2rec, where labels alone have to be"
        )
    return np.array(labels, np.float32)
