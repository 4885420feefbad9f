"""Archives as sources: each reads as the folder that it was made from, and what is wrong with one is said by name."""

import io
import json
import multiprocessing
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.records import write_identities
from d2r_fast.engine.source import Source, fingerprint, open_images, open_source
from d2r_fast.engine.sources import row_groups
from d2r_fast.engine.sources.packed import DamagedImage

from .fakedata import identity_name, make_dataset, make_document

NAMES = ("0/0.png", "0/1.png", "0/10.png", "2/0.png", "10/0.png", "10/1.jpg", "Zoë/李.png")
MANY = {name: name.encode() * 40 + os.urandom(900) for name in NAMES}


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def zip_of(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def tar_of(path: Path, files: dict[str, bytes], *, format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w:", format=format) as opened:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
    return path


def content(source: Source) -> dict[str, dict[str, bytes]]:
    """Every image's bytes, in order."""
    return {i.name: {image.name: source.read(image) for image in i.images} for i in source.identities}


def same(one: Source, two: Source) -> None:
    """See that two sources hold the same, in the same order."""
    assert json.dumps(list(content(one).items()), default=bytes.hex) == json.dumps(
        list(content(two).items()), default=bytes.hex
    )
    assert fingerprint(one.identities) == fingerprint(two.identities)
    assert one.num_images == two.num_images


def test_a_zip_reads_as_its_folder(tmp_path: Path) -> None:
    folder = open_source(folder_of(tmp_path / "digiface", MANY))
    stored = zip_of(tmp_path / "stored.zip", MANY)
    deflated = zip_of(tmp_path / "deflated.zip", dict(reversed(MANY.items())), method=zipfile.ZIP_DEFLATED)
    top = zip_of(
        tmp_path / "top.zip", {f"subjects_0-1999_72_imgs/{name}": data for name, data in MANY.items()}
    )
    for path in (stored, deflated, top):
        same(open_source(path), folder)
    assert open_source(stored).name == "stored"
    assert open_source(top).identities[0].images[1].path == top / "subjects_0-1999_72_imgs" / "0" / "1.png"
    assert open_source(stored).identities[0].images[1].path == stored / "0" / "1.png"


def test_several_zips_are_one_source(tmp_path: Path) -> None:
    folder = open_source(folder_of(tmp_path / "digiface", MANY))
    zips = tmp_path / "zips"
    zips.mkdir()
    (zips / "LICENSE.txt").touch()
    for number, identity in enumerate(("10", "2", "Zoë")):
        zip_of(
            zips / f"{number}.zip", {f"part/{n}": d for n, d in MANY.items() if n.startswith(f"{identity}/")}
        )
    halves = [
        {n: d for n, d in MANY.items() if n.startswith("0/") and ("1" in n) == one} for one in (True, False)
    ]
    for number, half in enumerate(halves, 3):
        zip_of(zips / f"{number}.ZIP", half)
    found = open_source(zips)
    same(found, folder)
    assert found.name == "zips"
    zip_of(zips / "5.zip", {"0/10.png": b"other", "77/0.png": b""})
    with pytest.raises(
        UserError, match=r"image 10\.png of identity 0 is in .*3\.ZIP and in .*5\.zip: give each once"
    ):
        open_source(zips)


def test_what_a_zip_holds_besides(tmp_path: Path) -> None:
    """Folders, hidden files, what macOS adds and other files are left out as of a folder."""
    rest = {"0/": b"", "__MACOSX/0/._0.png": b"x", "0/.hidden.png": b"x", ".git/0.png": b"x", "readme.md": b"x",
            "0/notes.txt": b"x", "a/b/c/deep.png": b"x", "empty/": b""}  # fmt: skip
    found = open_source(zip_of(tmp_path / "a.zip", rest | MANY))
    same(found, open_source(folder_of(tmp_path / "folder", MANY)))


@pytest.mark.parametrize(("size", "limit"), [(0, 10), (1, 10), (3, 2**31)])
def test_directories_of_other_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, limit: int
) -> None:
    """Zip64 fields, data descriptors, a comment, and bytes before the first member, as self-extracting zips have."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", limit // 5)
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        file.write(b"#!/bin/sh\n" * size)
        with zipfile.ZipFile(_Pipe(file), "w", zipfile.ZIP_DEFLATED) as opened:
            opened.comment = b"made by hand" * size
            for name, data in MANY.items():
                with opened.open(name, "w", force_zip64=True) as member:
                    member.write(data)
    same(open_source(path), open_source(folder_of(tmp_path / "folder", MANY)))


class _Pipe:
    """A file that cannot be sought in, so that sizes follow the members."""

    def __init__(self, file: Any) -> None:
        self.write, self.flush = file.write, file.flush


def test_utf8_names_of_info_zip(tmp_path: Path) -> None:
    """Info-ZIP keeps the UTF-8 name in an extra field and does not say that the plain one is UTF-8."""
    plain = "Zo\u251c\u00bd/0.png"  # UTF-8 bytes of Zoë read as cp437
    raw = plain.encode("cp437")
    info = zipfile.ZipInfo("Zo__/0.png")
    info.extra = (
        struct.pack("<HHBI", 0x7075, 5 + len("Zoë/0.png".encode()), 1, zlib.crc32(raw)) + "Zoë/0.png".encode()
    )
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(info, b"data")
    data = (tmp_path / "a.zip").read_bytes().replace(b"Zo__/0.png", raw)
    (tmp_path / "a.zip").write_bytes(data)
    assert content(open_source(tmp_path / "a.zip")) == {"Zoë": {"0.png": b"data"}}


@pytest.mark.parametrize(
    "name", ["../0/0.png", "0/../../0.png", "/0/0.png", "0\\0.png", "0//0.png", "C:\\0\\0.png", "./0/0.png"]
)
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    path = zip_of(tmp_path / "a.zip", {**MANY, name: b""})
    with pytest.raises(UserError, match="is unsafe") as error:
        open_source(path)
    assert repr(name) in str(error.value)


def spoil(path: Path, *edits: tuple[bytes, bytes]) -> Path:
    data = path.read_bytes()
    for old, new in edits:
        assert old in data
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


def test_zips_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", MANY)
    whole = path.read_bytes()
    for keep in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"a\.zip is no whole zip .*: copy it again"):
            open_source(path)
    with pytest.raises(UserError, match=r"a\.tar is a file|does not exist|cannot be read"):
        open_source(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"packed by method 14"):
        open_source(zip_of(tmp_path / "lzma.zip", MANY, method=zipfile.ZIP_LZMA))
    spoil(zip_of(tmp_path / "twice.zip", {"0/0.png": b"1", "0/1.png": b"2"}), (b"0/1.png", b"0/0.png"))
    with pytest.raises(UserError, match=r"image 0\.png of identity 0 is in .*twice\.zip twice"):
        open_source(tmp_path / "twice.zip")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"0/0.png": b"data"})
    central = path.read_bytes().index(b"PK\1\2")
    data = bytearray(path.read_bytes())
    data[central + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"member 0/0\.png of .*a\.zip is encrypted"):
        open_source(path)


def test_damage_within_a_zip_is_its_images_alone(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = zip_of(tmp_path / f"{method}.zip", MANY, method=method)
        whole = open_source(path)
        with zipfile.ZipFile(path) as opened:
            offsets = [opened.getinfo(name).header_offset for name in ("0/0.png", "0/1.png", "2/0.png")]
        data = bytearray(path.read_bytes())
        data[offsets[0] + 100] ^= 0xFF
        data[offsets[1]] ^= 0xFF
        data[offsets[2] + 100 : offsets[2] + 200] = bytes(100)
        path.write_bytes(data)
        images = [image for identity in whole.identities for image in identity.images]
        broken = []
        for image in images:
            with suppress(DamagedImage):
                whole.read(image)
                continue
            broken.append(f"{image.identity}/{image.name}")
        assert broken == ["0/0.png", "0/1.png", "2/0.png"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_reads_as_its_folder(tmp_path: Path, format: int) -> None:
    long = {f"{'long' * 20}/{'name' * 20}.png": b"x", f"{'x' * 120}/{'y' * 120}.png": b"z"}
    files = MANY | (dict([next(iter(long.items()))]) if format == tarfile.USTAR_FORMAT else long)
    folder = open_source(folder_of(tmp_path / "folder", files))
    same(open_source(tar_of(tmp_path / "a.tar", files, format=format)), folder)
    dotted = tmp_path / "dotted.tar"
    with tarfile.open(dotted, "w:", format=format) as opened:
        opened.add(tmp_path / "folder", "./")
    same(open_source(dotted), folder)
    with tarfile.open(tmp_path / "top.tar", "w:", format=format) as opened:
        opened.add(tmp_path / "folder", "digiface")
    same(open_source(tmp_path / "top.tar"), folder)


def test_a_webdataset_is_read_by_its_labels(tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [
        {"__key__": "a/0001", "jpg": b"1", "cls": 7, "txt": "no image", "mask.png": b"mask"},
        {"__key__": "a/0002", "png": b"2", "json": {"label": 7}},
        {
            "__key__": "0003",
            "jpg": b"3",
            "cls": 7,
            "json": {"identity": "Zoë", "label": 1, "long": "x" * 600},
        },
        {"__key__": "0004", "webp": b"4", "json": {"label": "ten", "score": 0.5}},
    ]
    (tmp_path / "shards").mkdir()
    for number in range(2):
        with webdataset.TarWriter(str(tmp_path / "shards" / f"{number}.tar")) as tar:
            for sample in samples[2 * number : 2 * number + 2]:
                tar.write(sample)
    found = open_source(tmp_path / "shards")
    assert content(found) == {
        "7": {"0001.jpg": b"1", "0002.png": b"2"}, "Zoë": {"0003.jpg": b"3"}, "ten": {"0004.webp": b"4"},
    }  # fmt: skip
    with webdataset.TarWriter(str(tmp_path / "shards" / "2.tar")) as tar:
        tar.write({"__key__": "5", "jpg": b"5", "cls": 1})
        tar.write({"__key__": "6", "jpg": b"6"})
    with pytest.raises(UserError, match=r"sample 6 of .*2\.tar has no label, and others have"):
        open_source(tmp_path / "shards")


def test_tars_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", MANY)
    whole = path.read_bytes()
    ends = {0: "is cut short at byte 0", 700: "is damaged at byte 0", 300: "is damaged at byte 0"}
    end = len(whole.rstrip(b"\0")) + (-len(whole.rstrip(b"\0")) % 512)
    ends[end] = f"is cut short at byte {end}, it has no end mark"
    for keep, message in ends.items():
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=message):
            open_source(path)
    path.write_bytes(whole)
    spoil(path, (b"ustar", b"usTar"))
    with pytest.raises(UserError, match="is damaged at byte 0"):
        open_source(path)
    pax = tar_of(tmp_path / "pax.tar", {"0/" + "n" * 120 + ".png": b"1", "0/1.png": b"2", "0/2.png": b"3"},
                 format=tarfile.PAX_FORMAT)  # fmt: skip
    spoil(pax, (b"0/1.png", b"0/\xff.png"))
    with pytest.raises(UserError, match="is damaged or cut short at byte"):
        open_source(pax)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match="compressed tar"):
        open_source(tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "link.tar", "w:") as opened:
        member = tarfile.TarInfo("0/0.png")
        member.type, member.linkname = tarfile.SYMTYPE, "../1.png"
        opened.addfile(member)
    with pytest.raises(UserError, match=r"member 0/0\.png of .* is a link or device"):
        open_source(tmp_path / "link.tar")


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_our_dataset_reads_alike_in_both_formats(tmp_path: Path, image_format: str) -> None:
    shared: dict[str, Any] = {"num_identities": 5, "image_format": image_format}
    tars = make_dataset(tmp_path / "tars", make_document(**shared))
    folders = make_dataset(tmp_path / "folders", make_document(**shared, format="imagefolder"))
    same(open_source(tars), open_source(folders))
    assert identity_name(0) in content(open_source(tars))
    (tars / "00001_stats.json").unlink()
    with pytest.raises(UserError, match=r"unfinished: 1 of 2 shards are not whole"):
        open_source(tars)


def test_records_are_read_by_label_and_key(tmp_path: Path) -> None:
    images = [b"\x89PNG1", b"\xff\xd8\xff2", b"RIFF3", b"BM4", b"what"]
    write_identities(tmp_path, images, counts=[2, 0, 3])
    found = {"0": {"1.png": b"\x89PNG1", "2.jpg": b"\xff\xd8\xff2"},
             "2": {"3.webp": b"RIFF3", "4.bmp": b"BM4", "5.jpg": b"what"}}  # fmt: skip
    assert content(open_source(tmp_path)) == content(open_source(tmp_path / "train.rec")) == found
    source = open_source(tmp_path)
    data = bytearray((tmp_path / "train.rec").read_bytes())
    data[data.index(b"\x89PNG1") - 32] ^= 0xFF
    (tmp_path / "train.rec").write_bytes(data)
    with pytest.raises(DamagedImage, match="no record begins at byte"):
        source.read(source.image("0", "1.png"))
    (tmp_path / "train.idx").unlink()
    with pytest.raises(UserError, match=r"train\.idx is missing"):
        open_source(tmp_path)


FFHQ = {f"{n // 1000 * 1000:05d}/{n:05d}.png": str(n).encode() for n in (0, 1, 999, 1000, 69999)}


@pytest.mark.parametrize("make", [folder_of, lambda p, f: zip_of(p.with_suffix(".zip"), f)])
def test_each_image_of_ffhq_is_a_person(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    source = open_source(make(tmp_path / "ffhq", FFHQ))
    people = [f"{n:05d}" for n in (0, 1, 999, 1000, 69999)]
    assert {i.name: [image.name for image in i.images] for i in source.identities} == {
        p: [f"{p}.png"] for p in people
    }
    assert source.read(source.image("69999", "69999.png")) == b"69999"
    assert str(source.identities[4].images[0].path).endswith("/69000/69999.png")


@pytest.mark.parametrize("other", ["00000/01000.png", "00000/0.png", "100/00001.png", "00000/00001.jpg"])
def test_what_only_resembles_ffhq_is_people(tmp_path: Path, other: str) -> None:
    source = open_source(folder_of(tmp_path / "set", FFHQ | {other: b""}))
    assert {"00000", "01000", "69000"} <= {identity.name for identity in source.identities}


def hugging_face(
    path: Path, images: list[tuple[bytes | None, str | None]], labels: list[Any], **options: Any
) -> Path:
    """A parquet file as `datasets` writes an image folder."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["Ann", "Bob"], "_type": "ClassLabel"}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({
        "image": pa.array([{"bytes": data, "path": name} for data, name in images], kind), "label": labels,
    })  # fmt: skip
    described = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(described, path, row_group_size=2, **options)
    return path


def test_parquet_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "CACHE_BYTES", 100)
    images = [(b"1", "a.png"), (b"2", "train/b.png"), (b"\xff\xd8", None), (None, "c.jpg"), (b"5", "d.jpg")]
    path = hugging_face(tmp_path / "train-0.parquet", images, [1, 0, 1, 0, 1])
    found = open_source(path)
    assert {i.name: [image.name for image in i.images] for i in found.identities} == {
        "Ann": ["b.png", "c.jpg"], "Bob": ["2.jpg", "a.png", "d.jpg"],
    }  # fmt: skip
    assert found.read(found.image("Bob", "a.png")) == b"1"
    assert found.read(found.image("Ann", "b.png")) == b"2"
    assert found.read(found.image("Bob", "d.jpg")) == b"5"
    with pytest.raises(OSError, match="no bytes in its table"):
        found.read(found.image("Ann", "c.jpg"))


def test_parquet_of_plain_columns(tmp_path: Path) -> None:
    table = pa.table({"png": [b"1", b"2"], "identity": ["x", "y"], "name": ["p", "q.png"], "label": [0, 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert content(open_source(tmp_path)) == {"x": {"p.jpg": b"1"}, "y": {"q.png": b"2"}}
    pq.write_table(pa.table({"image": [b"1", b"BM2"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has no column of labels"):
        open_source(tmp_path)
    assert list(content(open_images(tmp_path))) == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [1]}, "has 0 columns of images"),
        ({"a": [b""], "b": [b""], "label": [1]}, "has 2 columns of images"),
        ({"image": [b""], "label": [1.5]}, "column label of .* is double"),
        ({"image": [b""], "label": pa.array([None], pa.int64())}, "row 0 of .* has the identity ''"),
        ({"image": [b"", b""], "label": ["a", "a/b"]}, "row 1 of .* has the identity 'a/b'"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "holds no rows"),
    ],
)
def test_parquet_that_is_no_source(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(UserError, match="is no whole parquet file"):
        open_source(tmp_path / "a.parquet")


def test_images_without_labels(tmp_path: Path) -> None:
    flat = {name.replace("/", "_"): data for name, data in MANY.items()}
    folder = open_images(folder_of(tmp_path / "flat", flat))
    for path in (zip_of(tmp_path / "a.zip", flat), tar_of(tmp_path / "a.tar", flat)):
        same(open_images(path), folder)
        with pytest.raises(UserError, match="holds images but no identity folders"):
            open_source(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [({}, "holds no images"), ({"a/b/c/0.png": b"", "d/0/0/0.png": b""}, "holds folders of folders")],
)
def test_archives_without_identities(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for path in (zip_of(tmp_path / "a.zip", files), tar_of(tmp_path / "a.tar", files)):
        with pytest.raises(UserError, match=message):
            open_source(path)
    with pytest.raises(UserError, match=r"files of several kinds \(\.tar, \.zip\)"):
        open_source(tmp_path)


def test_which_form_a_folder_has(tmp_path: Path) -> None:
    """Folders with images come before archives, those without do not; a dataset.json of others says nothing."""
    packed = zip_of(tmp_path / "a.zip", {"packed/0.png": b""})
    (tmp_path / "logs").mkdir()
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    assert list(content(open_source(tmp_path))) == ["packed"]
    (tmp_path / "dataset.json").write_text('{"labels": ')
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        open_source(tmp_path)
    (tmp_path / "dataset.json").unlink()
    folder_of(tmp_path, {"person/0.png": b""})
    assert list(content(open_source(tmp_path))) == ["logs", "person"]
    (tmp_path / "person" / "0.png").unlink()
    packed.rename(tmp_path / "logs" / "a.zip")
    with pytest.raises(UserError, match=r"holds a folder of archives: did you mean .*logs\?"):
        open_source(tmp_path)


@pytest.mark.slow
def test_a_large_zip_opens_in_time(tmp_path: Path) -> None:
    """360,000 members, a third of DigiFace: under 20 s and 600 MB."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for number in range(360_000):
            opened.writestr(f"subjects_0-4999_72_imgs/{number // 72}/{number % 72}.png", b"x")
    measure = (
        "import re, sys, time; from d2r_fast.engine.source import open_source, fingerprint; "
        "import d2r_fast.engine.sources.zips; start = time.perf_counter(); "
        # Not resource.getrusage, whose peak comes from the process that started this one.
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); before = peak(); "
        "source = open_source(sys.argv[1]); fingerprint(source.identities); assert source.num_images == 360_000; "
        "print(time.perf_counter() - start, (peak() - before) / 1024)"
    )
    program = [sys.executable, "-c", measure, str(path)]
    took_s, grown_mib = map(
        float, subprocess.run(program, check=True, capture_output=True, text=True).stdout.split()
    )
    print(f"opened in {took_s:.1f} s, {grown_mib:.0f} MiB at most")
    assert took_s < 20
    assert grown_mib < 600


def packed(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        return zip_of(path, MANY, method=zipfile.ZIP_DEFLATED)
    if kind == "tar":
        return tar_of(path, MANY)
    table = pa.table({"image": list(MANY.values()), "label": [n.split("/")[0] for n in MANY], "name": [
        n.split("/")[1] for n in MANY]})  # fmt: skip
    pq.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet"])
def test_threads_and_forked_processes_read_the_same(tmp_path: Path, kind: str) -> None:
    source = open_source(packed(tmp_path, kind))
    images = [image for identity in source.identities for image in identity.images]
    wanted = [MANY[f"{image.identity}/{image.name}"] for image in images]

    def child(answers: Any) -> None:
        with ThreadPoolExecutor(4) as pool:
            answers.send(list(pool.map(source.read, images * 20)) == wanted * 20)

    with ThreadPoolExecutor(8) as pool:
        busy = pool.map(source.read, images * 200)
        context = multiprocessing.get_context("fork")
        results = []
        for _ in range(3):
            mine, theirs = context.Pipe()
            process = context.Process(target=child, args=(theirs,))
            process.start()
            results.append((mine, process))
        assert list(busy) == wanted * 200
    for mine, process in results:
        assert mine.poll(30)
        assert mine.recv()
        process.join()


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet"])
def test_what_is_not_there_is_an_oserror(tmp_path: Path, kind: str) -> None:
    source = open_source(packed(tmp_path, kind))
    for names in (("0", "77.png"), ("77", "0.png"), ("0", "")):
        with pytest.raises(FileNotFoundError):
            source.read(source.image(*names))
