"""Tars as sources: folders, WebDatasets and our own, and what is wrong with one is said by name."""

import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.records import write_identities
from d2r_fast.engine.source import open_source
from d2r_fast.engine.sources.packed import DamagedImage

from .archives import MANY, content, folder_of, same, spoil, tar_of
from .fakedata import identity_name, make_dataset, make_document


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
