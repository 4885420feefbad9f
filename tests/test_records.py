"""InsightFace's RecordIO: golden bytes, round trips, damage."""

import io
import re
import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.records import (
    MAGIC,
    Record,
    RecordError,
    frames,
    open_writer,
    pack,
    read_heads,
    read_index,
    read_payload,
    unpack,
    write_identities,
)

from . import recordbytes as golden


def reader(data: bytes):
    file = io.BytesIO(data)

    def read(size: int, offset: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    return read


def read_all(data: bytes, offsets: list[int]) -> list[Record]:
    return [unpack(read_payload(reader(data), offset)) for offset in offsets]


OFFSETS = np.cumsum([0, *map(len, golden.PARTS[:-1])]).tolist()


def test_the_golden_bytes_are_consistent():
    lines = "".join(f"{key}\t{offset}\n" for key, offset in enumerate(OFFSETS))
    assert lines.encode() == golden.INDEX


def test_reads_a_file_written_by_hand():
    head, *images, first, second = read_all(golden.RECORDS, OFFSETS)
    assert head.labels.tolist() == [5.0, 7.0]
    assert head.flag == 2
    assert [record.data for record in images] == golden.IMAGES
    assert [record.labels[0] for record in images] == golden.LABELS
    assert [record.id for record in images] == [1, 2, 3, 4]
    assert (first.labels.tolist(), second.labels.tolist()) == ([1, 3], [3, 5])


def test_writes_the_file_written_by_hand():
    records = read_all(golden.RECORDS, OFFSETS)
    assert b"".join(frame for record in records for frame in frames(pack(record))) == golden.RECORDS


def test_writes_a_set_that_reads_back(tmp_path: Path):
    classes = [[b"one", b"two" * 7], [struct.pack("<I", MAGIC) * 3], [b"x" * 4096, b"y"]]
    write_identities(tmp_path, chain(*classes), counts=[2, 1, 2])
    keys, offsets = read_index(tmp_path / "train.idx")
    records = read_all((tmp_path / "train.rec").read_bytes(), offsets.tolist())
    assert keys.tolist() == list(range(9))
    assert records[0].labels.tolist() == [6, 9]
    assert [record.data for record in records[1:6]] == [image for images in classes for image in images]
    assert [int(record.labels[0]) for record in records[1:6]] == [0, 0, 1, 2, 2]
    assert [record.labels.tolist() for record in records[6:]] == [[1, 3], [3, 4], [4, 6]]


@pytest.mark.parametrize("seed", range(20))
def test_any_payload_survives(seed: int):
    """Payloads strewn with magic words, aligned or not, whole or cut short."""
    rng = np.random.default_rng(seed)
    magic = struct.pack("<I", MAGIC)
    pieces = [magic, magic[:3], b"\0", b"abc", magic * 2]
    payload = b"".join(pieces[rng.integers(5)] for _ in range(rng.integers(0, 30)))
    data = b"".join(frames(payload))
    assert len(data) % 4 == 0
    assert read_payload(reader(data), 0) == payload
    aligned = [data[at : at + 4] for at in range(0, len(data), 4)]
    assert aligned.count(magic) == len(list(frames(payload))), "a reader that resynchronises would be misled"


def test_heads_are_read_without_images(tmp_path: Path):
    path = tmp_path / "train.rec"
    path.write_bytes(golden.RECORDS)
    flags, labels = read_heads(path, np.array(OFFSETS))
    assert flags.tolist() == [2, 0, 0, 1, 0, 2, 2]
    assert labels.tolist() == [5, 0, 0, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("data", "offset", "text"),
    [
        (golden.RECORDS, 4, r"no record begins at byte 4 \(bad magic word 0x00000020\)"),
        (golden.RECORDS, len(golden.RECORDS), "the file ends at byte 288"),
        (golden.RECORDS, 10**9, "the file ends at byte 1000000000"),
        (golden.RECORDS[:60], 40, "the file ends within the record at byte 40"),
        (golden.HEAD + golden.WHOLE + golden.SPLIT[:36], 80, "the file ends at byte 116"),
        (golden.SPLIT[36:], 0, "part 3 at byte 0 has no place there"),
        (golden.SPLIT[:36] + golden.WHOLE, 0, "part 0 at byte 36 has no place there"),
        (b"", 0, "the file ends at byte 0"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, offset: int, text: str):
    with pytest.raises(RecordError, match=text):
        read_payload(reader(data), offset)
    path = tmp_path / "train.rec"
    path.write_bytes(data)
    with pytest.raises(RecordError, match=text):
        read_heads(path, np.array([offset]))


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (bytes(23), "23 bytes, and a header takes 24"),
        (b"\x02\0\0\0" + bytes(24), "28 bytes, and the header announces 2 labels"),
        (b"\xff\xff\xff\xff" + bytes(40), "announces 4294967295 labels"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, payload: bytes, text: str):
    with pytest.raises(RecordError, match=text):
        unpack(payload)


@pytest.mark.parametrize(
    "text", [b"", b"0\t0\n1", b"a\t0\n", b"0\t1.5\n", b"0,0\n1,40\n", b"0\t-8\n", b"\xff\xfe0\t0", b"\n\n"]
)
def test_what_is_no_index_is_refused(tmp_path: Path, text: bytes):
    path = tmp_path / "train.idx"
    path.write_bytes(text)
    with pytest.raises(UserError, match=re.escape(f"{path} is no index: expected lines of a key, a tab")):
        read_index(path)


def test_an_index_may_end_anyhow_and_has_no_key_twice(tmp_path: Path):
    path = tmp_path / "train.idx"
    path.write_bytes(b"3\t40\r\n0\t0")
    assert [part.tolist() for part in read_index(path)] == [[3, 0], [40, 0]]
    path.write_bytes(b"0\t0\n1\t40\n1\t80\n")
    with pytest.raises(UserError, match="has key 1 twice"):
        read_index(path)
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_index(tmp_path / "other.idx")


def test_nothing_is_left_of_a_set_that_fails(tmp_path: Path):
    def half() -> None:
        with open_writer(tmp_path) as writer:
            writer.write(0, Record(np.zeros(1, np.float32), b"data"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []
