"""Archives as other tools make them, or as nobody should: each is read, or refused in one line that says why."""

import struct
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.listing import open_listing
from d2r_fast.engine.formats.records import Record, open_writer, write_identities
from d2r_fast.engine.source import open_source
from d2r_fast.engine.sources.row_groups import RowGroups

from .test_archives import content, tar_of

DATA = b"hello"


def one_member(
    *, offset: int = 0, size: int = len(DATA), zip64: tuple[int, ...] = (), before: bytes = b""
) -> bytes:
    """A stored zip of 0/0.png whose directory says what is asked for; `zip64` holds its numbers of 64 bits."""
    name, checksum = b"0/0.png", zlib.crc32(DATA)
    extra = struct.pack(f"<HH{len(zip64)}Q", 1, 8 * len(zip64), *zip64) if zip64 else b""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 33, checksum, 5, 5, len(name), 0) + name + DATA
    head = struct.pack(
        "<4s6H3I5H2I",
        b"PK\1\2",
        45,
        45,
        0,
        0,
        0,
        33,
        checksum,
        5,
        size,
        len(name),
        len(extra),
        0,
        0,
        0,
        0,
        offset,
    )
    directory = head + name + extra
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(local), 0)
    return before + local + directory + end


@pytest.mark.parametrize(
    "data",
    [
        one_member(), one_member(before=b"#!/bin/sh\n" * 50), one_member() + b"appended",
        one_member(size=2**32 - 1, zip64=(5,)), one_member(offset=2**32 - 1, zip64=(0,)),
    ],
    ids=["plain", "self-extracting", "appended", "size of 64 bits", "offset of 64 bits"],
)  # fmt: skip
def test_zips_of_other_tools(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    assert content(open_source(tmp_path / "a.zip")) == {"0": {"0.png": DATA}}


@pytest.mark.parametrize("field", ["size", "offset"])
def test_numbers_that_no_zip_can_have_are_refused(tmp_path: Path, field: str) -> None:
    named: dict[str, Any] = {field: 2**32 - 1}
    (tmp_path / "a.zip").write_bytes(one_member(**named, zip64=(2**64 - 5,)))
    with pytest.raises(UserError, match=r"no whole zip \(no file is as large as 0/0\.png would be\)"):
        open_source(tmp_path / "a.zip")


def test_a_zip_written_as_a_stream_by_a_mac(tmp_path: Path) -> None:
    """Data descriptors behind the members, folders among them, and what macOS hides."""
    program = "import sys, zipfile\nwith zipfile.ZipFile(sys.stdout.buffer, 'w', 8) as z:\n" + "".join(
        f" z.writestr({name!r}, {data!r})\n"
        for name, data in {
            "people/": b"", "people/1/": b"", "people/1/a.png": b"a" * 999, "__MACOSX/people/1/._a.png": b"x",
            "people/.DS_Store": b"x", "people/1/Thumbs.db": b"x", "people/1/.b.png": b"x",
        }.items()
    )  # fmt: skip
    with subprocess.Popen(["python3", "-c", program], stdout=subprocess.PIPE) as writer:  # a pipe cannot seek
        assert writer.stdout is not None
        (tmp_path / "a.zip").write_bytes(writer.stdout.read())
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        assert opened.getinfo("people/1/a.png").flag_bits & 8
    assert content(open_source(tmp_path / "a.zip")) == {"1": {"a.png": b"a" * 999}}


FORMATS = ["v7", "oldgnu", "gnu", "ustar", "posix"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("inside", ["people", "."])
def test_tars_of_gnu_tar(tmp_path: Path, format: str, inside: str) -> None:
    person = tmp_path / "people" / "Zoë"
    person.mkdir(parents=True)
    long = "n" * 80 + ".png"
    for name in ("0.png", long, "._0.png"):
        (person / name).write_bytes(name.encode())
    (person / "notes.txt").symlink_to("0.png")
    (person / "._1.png").symlink_to("0.png")
    where = ["-C", str(tmp_path / "people"), "."] if inside == "." else ["-C", str(tmp_path), "people"]
    subprocess.run(["tar", f"--format={format}", "-cf", tmp_path / "a.tar", *where], check=True)
    assert content(open_source(tmp_path / "a.tar")) == {"Zoë": {"0.png": b"0.png", long: long.encode()}}


def test_the_size_of_a_folder_in_a_tar_is_of_no_data(tmp_path: Path) -> None:
    """As POSIX has it, for systems that set space aside; GNU tar, libarchive and tarfile read it so."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as opened:
        folder = tarfile.TarInfo("0")
        folder.type = tarfile.DIRTYPE
        opened.addfile(folder)
    head = bytearray(path.read_bytes()[:512])
    head[124:136] = b"00000010000\0"
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:]))
    path.write_bytes(bytes(head) + tar_of(tmp_path / "b.tar", {"0/0.png": DATA}).read_bytes())
    (tmp_path / "b.tar").unlink()
    with tarfile.open(path) as opened:
        assert opened.getnames() == ["0", "0/0.png"]
    assert content(open_source(path)) == {"0": {"0.png": DATA}}


@pytest.mark.parametrize("options", [["--sparse"], ["--sparse", "--format=posix"], []])
def test_sparse_and_linked_members_are_refused_by_name(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "people" / "0").mkdir(parents=True)
    first = tmp_path / "people" / "0" / "0.png"
    with first.open("wb") as file:
        file.truncate(1 << 20)
    if not options:
        (first.parent / "1.png").hardlink_to(first)
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", *options, "-C", tmp_path, "people"], check=True)
    with pytest.raises(UserError, match=r"^member people/0/[01]\.png of .* is a link or device, not a file"):
        open_source(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("label", "message"),
    [(b'{"label": "\\ud800"}', "has the identity"), (b'{"label": true}', "no identity folders"),
     (b'{"label": 1' + b"0" * 5000 + b"}", "no identity folders"), (b"[" * 100_000, "no identity folders")],
)  # fmt: skip
def test_labels_that_are_none(tmp_path: Path, label: bytes, message: str) -> None:
    path = tar_of(tmp_path / "a.tar", {"0.jpg": DATA, "0.json": label})
    with pytest.raises(UserError, match=message):
        open_source(path)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        (pa.large_binary(), pa.large_string()), (pa.binary(), pa.string()), (pa.binary_view(), pa.string_view()),
        (pa.binary(), pa.dictionary(pa.int8(), pa.string())),
        (pa.binary(), pa.dictionary(pa.int32(), pa.large_string())),
    ],
    ids=str,
)  # fmt: skip
def test_parquet_columns_of_other_writers(tmp_path: Path, image: pa.DataType, label: pa.DataType) -> None:
    """pandas keeps categories as a dictionary, and polars text and bytes in large columns or views."""
    table = pa.table({
        "image": pa.array([b"1", b"2", b"3"], pa.binary()).cast(image),
        "label": pa.array(["b", "a", "b"]).cast(label) if not pa.types.is_dictionary(label)
        else pa.array(["b", "a", "b"], label.value_type).dictionary_encode().cast(label),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert content(open_source(tmp_path / "a.parquet")) == {
        "a": {"1.jpg": b"2"},
        "b": {"0.jpg": b"1", "2.jpg": b"3"},
    }


@pytest.mark.parametrize("names", [[7, 8], [b"x.png", b"y.png"], [0.5, None]])
def test_names_that_are_no_text_are_no_names(tmp_path: Path, names: list[Any]) -> None:
    pq.write_table(pa.table({"image": [b"1", b"2"], "label": [0, 0], "key": names}), tmp_path / "a.parquet")
    assert content(open_source(tmp_path / "a.parquet")) == {"0": {"0.jpg": b"1", "1.jpg": b"2"}}
    paths = pa.array([{"bytes": b"1", "path": names[0]}, {"bytes": b"2", "path": names[1]}])
    pq.write_table(pa.table({"image": paths, "label": [0, 0]}), tmp_path / "a.parquet")
    assert content(open_source(tmp_path / "a.parquet")) == {"0": {"0.jpg": b"1", "1.jpg": b"2"}}


def test_an_empty_row_group_is_none(tmp_path: Path) -> None:
    with pq.ParquetWriter(
        tmp_path / "a.parquet", pa.schema({"image": pa.binary(), "label": pa.int64()})
    ) as writer:
        for rows in ([], [b"\x89PNG"]):
            writer.write_table(
                pa.table(
                    {"image": pa.array(rows, pa.binary()), "label": pa.array([3] * len(rows), pa.int64())}
                )
            )
    assert pq.read_metadata(tmp_path / "a.parquet").row_group(0).num_rows == 0
    assert content(open_source(tmp_path / "a.parquet")) == {"3": {"0.png": b"\x89PNG"}}


def test_parquet_files_of_two_sets_are_told_apart(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": ["b"], "image": [b"1"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"image": [b"2"], "label": ["a"]}), tmp_path / "0.parquet")
    (tmp_path / "._0.parquet").write_bytes(b"what macOS hides")
    assert content(open_source(tmp_path)) == {"a": {"0.jpg": b"2"}, "b": {"1.jpg": b"1"}}
    assert [person.name for person in open_listing(tmp_path).people] == ["a", "b"]
    pq.write_table(
        pa.table({"image": [{"bytes": b"1", "path": "x.png"}], "label": ["b"]}), tmp_path / "1.parquet"
    )
    with pytest.raises(UserError, match=r"1\.parquet has other columns than .*0\.parquet"):
        open_source(tmp_path)


def test_opening_named_images_unpacks_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"image": [b"1"], "label": [0], "name": ["a.png"]}), tmp_path / "a.parquet")
    monkeypatch.setattr(RowGroups, "read", lambda *_: pytest.fail("a row group was unpacked"))
    assert open_source(tmp_path / "a.parquet").identities[0].images[0].name == "a.png"


def test_text_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    labels = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
    pq.write_table(pa.table({"image": [b"1"], "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"is damaged .*: copy it again"):
        open_source(tmp_path / "a.parquet")


def test_records_of_several_labels_without_a_head_are_images(tmp_path: Path) -> None:
    """im2rec --pack-label: the first record has labels, and an image too."""
    with open_writer(tmp_path) as writer:
        for key, label in enumerate((2, 1, 1)):
            writer.write(
                key, Record(np.array([label, 0.25, 0.5], np.float32), b"\x89PNG%d" % key, flag=3, id=key)
            )
    assert content(open_source(tmp_path)) == {
        "1": {"1.png": b"\x89PNG1", "2.png": b"\x89PNG2"}, "2": {"0.png": b"\x89PNG0"},
    }  # fmt: skip
    write_identities(tmp_path, [b"\x89PNG1", b"\x89PNG2"], counts=[1, 1])
    assert content(open_source(tmp_path)) == {"0": {"1.png": b"\x89PNG1"}, "1": {"2.png": b"\x89PNG2"}}
