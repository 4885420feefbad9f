"""Zips as sources: each reads as the folder that it was made from, and what is wrong with one is said by name."""

import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import open_source
from d2r_fast.engine.sources.packed import DamagedImage

from .archives import MANY, content, folder_of, same, spoil, zip_of


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
