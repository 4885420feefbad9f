"""Faults of datasets, as deeds that are done to a folder: damage, and contradictions behind correct checksums."""

import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.marker import dump, dump_line
from d2r_fast.engine.rows import IdentityRow, ImageRow, as_dict, read_table, table_bytes
from d2r_fast.engine.write import encode

from .fakedata import identity_name, make_dataset, make_document, make_image

Fault = Callable[[Path], Any]


def seal(folder: Path, shard: int, **changes: Any) -> None:
    """Write the marker anew for whatever the shard's files now are."""
    path = folder / f"{shard:05d}_stats.json"
    marker = json.loads(path.read_bytes()) | changes
    for name in marker["files"]:
        marker["files"][name] = {
            "sha256": sha256_file(folder / name),
            "bytes": (folder / name).stat().st_size,
        }
    path.write_bytes(dump(marker))


def flip(name: str, seed: int) -> Fault:
    def fault(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[random.Random(seed).randrange(len(data))] ^= 1 << random.Random(seed).randrange(8)
        (folder / name).write_bytes(data)

    return fault


def cut(name: str, length: Callable[[bytes], int]) -> Fault:
    return lambda folder: os.truncate(folder / name, length((folder / name).read_bytes()))


def delete(name: str) -> Fault:
    return lambda folder: (folder / name).unlink()


def exchange(one: str, other: str) -> Fault:
    def fault(folder: Path) -> None:
        (folder / one).rename(folder / "between")
        (folder / other).rename(folder / one)
        (folder / "between").rename(folder / other)

    return fault


def several(*faults: Fault) -> Fault:
    return lambda folder: [fault(folder) for fault in faults]


def edit_tar(edit: Callable[[list[tuple[str, bytes]]], Any], *, sealed: bool) -> Fault:
    """Unpack the second shard, change the list of its members, pack it again."""

    def fault(folder: Path) -> None:
        path = folder / "00001.tar"
        with tarfile.open(path) as tar:
            members = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()]  # type: ignore[union-attr]
        edit(members)
        with tarfile.open(path, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
        if sealed:
            seal(folder, 1)

    return fault


def replace_member(place: int, change: Callable[[bytes], bytes]) -> Fault:
    def edit(members: list[tuple[str, bytes]]) -> None:
        members[place] = members[place][0], change(members[place][1])

    return edit_tar(edit, sealed=True)


def edit_rows(edit: Callable[[list[dict[str, Any]]], Any], *, sealed: bool = True) -> Fault:
    def fault(folder: Path) -> None:
        rows = [as_dict(row) for row in read_table(ImageRow, folder / "00001.parquet")]
        edit(rows)
        (folder / "00001.parquet").write_bytes(table_bytes(ImageRow, [ImageRow(**row) for row in rows]))
        if sealed:
            seal(folder, 1)

    return fault


def edit_identities(edit: Callable[[list[dict[str, Any]]], Any]) -> Fault:
    def fault(folder: Path) -> None:
        path = folder / "00001_identities.parquet"
        rows = [as_dict(row) for row in read_table(IdentityRow, path)]
        edit(rows)
        path.write_bytes(table_bytes(IdentityRow, [IdentityRow(**row) for row in rows]))
        seal(folder, 1)

    return fault


def edit_document(change: Callable[[dict[str, Any]], Any]) -> Fault:
    def fault(folder: Path) -> None:
        document = json.loads((folder / "dataset.json").read_bytes())
        change(document)
        (folder / "dataset.json").write_bytes(dump(document))

    return fault


def write_file(name: str, data: bytes, *, sealed: bool = False) -> Fault:
    def fault(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        if sealed:
            seal(folder, 1)

    return fault


def swap_labels(folder: Path) -> None:
    """Two shards under each other's names, the numbers in their markers put right: labels are wrong still."""
    for ending in (".tar", ".parquet", "_identities.parquet", "_errors.jsonl", "_stats.json"):
        exchange(f"00000{ending}", f"00001{ending}")(folder)
    for shard in (0, 1):
        path = folder / f"{shard:05d}_stats.json"
        marker = json.loads(path.read_bytes())
        renamed = {name.replace(f"{1 - shard:05d}", f"{shard:05d}"): e for name, e in marker["files"].items()}
        path.write_bytes(dump(marker | {"shard": shard, "files": renamed}))


def foreign_shard(folder: Path) -> None:
    other = make_dataset(folder.with_name("other"), make_document(seed=1))
    for path in other.glob("00001*"):
        path.replace(folder / path.name)


SMALL = encode(np.zeros((96, 112, 3), np.uint8), "jpg", 95)
PNG = encode(make_image(0, 3, 0), "png", 95)
JPG = encode(make_image(0, 3, 0), "jpg", 95)
TABLES = ("00001.parquet", "00001_identities.parquet", "00000_errors.jsonl")
FLAT = ("00001.tar", *TABLES, "00001_stats.json", "dataset.json")


def faults() -> Iterator[tuple[str, Fault]]:
    """Name and deed of every fault in a webdataset.

    Its second shard has the labels 3, 4 and 5; images 3_1 and 4_0 are rejected.
    """
    for name, times in zip(FLAT, (8, 4, 3, 3, 6, 6), strict=True):
        for seed in range(times):
            yield f"bit {seed} of {name}", flip(name, seed)
    yield "tar cut at a member boundary", cut("00001.tar", lambda data: data.index(b"000004_001.cls"))
    yield "tar cut after a sample", cut("00001.tar", lambda data: data.index(b"000005_003.cls"))
    yield "tar cut in a header", cut("00001.tar", lambda data: data.index(b"000004_001.jpg") + 100)
    yield "tar cut in a body", cut("00001.tar", lambda data: data.index(b"000004_001.jpg") + 1000)
    yield "tar without its last block", cut("00001.tar", lambda data: len(data) - 512)
    for name in FLAT:
        yield f"half of {name}", cut(name, lambda data: len(data) // 2)
        yield f"nothing of {name}", cut(name, lambda data: 0)
        yield f"{name} and a zero byte", cut(name, lambda data: len(data) + 1)
        yield f"no {name}", delete(name)
    yield "no README.md", delete("README.md")
    yield "no _SUCCESS", delete("_SUCCESS")
    yield "member gone", edit_tar(lambda members: members.pop(4), sealed=False)
    yield "tars swapped", exchange("00000.tar", "00001.tar")
    yield "shard of another seed", foreign_shard
    yield "row edited", edit_rows(lambda rows: rows[0].update(t=0.9), sealed=False)
    yield "left-over file", write_file(".00001.tar.4711.tmp", b"half a tar")
    yield "left-over folder", lambda folder: (folder / ".00001.4711.tmp" / "new").mkdir(parents=True)
    yield "tar out of plan", lambda folder: shutil.copy(folder / "00001.tar", folder / "00003.tar")
    yield "tar of odd name", lambda folder: shutil.copy(folder / "00001.tar", folder / "0000001.tar")
    yield (
        "marker out of plan",
        lambda folder: shutil.copy(folder / "00001_stats.json", folder / "00003_stats.json"),
    )
    yield "table of another tool", write_file("train.parquet", b"PAR1")
    yield (
        "torn event",
        lambda folder: os.truncate(folder / "events.jsonl", (folder / "events.jsonl").stat().st_size - 5),
    )
    yield (
        "garbage among events",
        write_file("events.jsonl", b'{"event": "start", "time": 1}\nxx\n{"event": "end"}\n'),
    )


def sealed_faults() -> Iterator[tuple[str, Fault]]:
    """Faults behind correct checksums."""
    yield from sealed_tars()
    yield from sealed_tables()
    yield from sealed_documents()


def sealed_tars() -> Iterator[tuple[str, Fault]]:
    """In the images."""
    yield "member gone", edit_tar(lambda members: members.pop(4), sealed=True)
    yield "image gone", edit_tar(lambda members: members.__delitem__(slice(0, 3)), sealed=True)
    yield "last image gone", edit_tar(lambda members: members.__delitem__(slice(-3, None)), sealed=True)
    yield "everything gone", edit_tar(lambda members: members.clear(), sealed=True)
    yield "member twice", edit_tar(lambda members: members.insert(3, members[2]), sealed=True)
    yield "image at the end too many", edit_tar(lambda members: members.append(("x.jpg", JPG)), sealed=True)
    yield "rejected image written", edit_tar(lambda m: m.insert(3, ("000003_001.jpg", JPG)), sealed=True)
    yield "members out of order", edit_tar(lambda members: members.reverse(), sealed=True)
    yield "other label in tar", replace_member(0, lambda data: b"4")
    yield "label with a newline", replace_member(0, lambda data: data + b"\n")
    yield "other row in tar", replace_member(2, lambda data: data.replace(b'"attempts": 1', b'"attempts": 2'))
    yield "row in tar no json", replace_member(2, lambda data: data[:-5])
    yield "image of other size", replace_member(1, lambda data: SMALL)
    yield "png called jpg", replace_member(1, lambda data: PNG)
    yield "image cut", replace_member(1, lambda data: data[: len(data) // 2])
    yield "image empty", replace_member(1, lambda data: b"")
    yield "image a text", replace_member(1, lambda data: b"no face here" * 50)
    yield "no tar at all", write_file("00001.tar", b"no tar" * 1000, sealed=True)


def sealed_tables() -> Iterator[tuple[str, Fault]]:
    """In the tables."""
    yield "row gone", edit_rows(lambda rows: rows.pop(5))
    yield "row twice", edit_rows(lambda rows: rows.insert(5, rows[5]))
    yield "rows out of order", edit_rows(lambda rows: rows.reverse())
    yield "number edited", edit_rows(lambda rows: rows[0].update(t=0.9))
    yield "key edited", edit_rows(lambda rows: rows[0].update(key="000003_009"))
    yield "label edited", edit_rows(lambda rows: rows[0].update(label=9))
    yield "identity edited", edit_rows(lambda rows: rows[0].update(identity="someone"))
    yield "rejected without reason", edit_rows(lambda rows: rows[1].update(reason=None))
    yield "unknown status", edit_rows(lambda rows: rows[1].update(status="lost"))
    yield "rejected now failed", edit_rows(lambda rows: rows[1].update(status="failed"))
    yield "written now rejected", edit_rows(lambda rows: rows[0].update(status="rejected", reason="x"))
    yield "no parquet", write_file("00001.parquet", b"PAR1" * 100, sealed=True)
    yield (
        "other columns",
        lambda folder: (
            shutil.copy(folder / "00001_identities.parquet", folder / "00001.parquet"),
            seal(folder, 1),
        ),
    )
    yield "identity gone", edit_identities(lambda rows: rows.pop())
    yield "identity renamed", edit_identities(lambda rows: rows[0].update(identity="someone"))
    yield "identity of another shard", several(
        edit_identities(lambda rows: rows[0].update(identity=identity_name(0))),
        edit_rows(lambda rows: [row.update(identity=identity_name(0)) for row in rows if row["label"] == 3]),
        edit_tar(lambda members: members.__setitem__(slice(None), [
            (n, d.replace(identity_name(3).encode(), identity_name(0).encode()) if n.endswith("json") else d)
            for n, d in members
        ]), sealed=True),
    )  # fmt: skip
    stranger = {"stage": "x", "identity": "someone", "key": "k", "error": "e", "reason": "r"}
    yield "error of a stranger", write_file("00001_errors.jsonl", dump_line(stranger), sealed=True)
    yield "error without fields", write_file("00001_errors.jsonl", b"{}\n", sealed=True)
    yield "error torn", write_file("00001_errors.jsonl", b'{"stage": "x", "ide', sealed=True)


def sealed_documents() -> Iterator[tuple[str, Fault]]:
    """In the markers and the document."""
    for status in ("written", "rejected"):
        other = (
            {"written": 12, "rejected": 0, "failed": 0}
            if status == "written"
            else {"written": 10, "rejected": 1, "failed": 1}
        )
        yield f"{status} miscounted", lambda folder, other=other: seal(folder, 1, **other)
    yield "wanted miscounted", lambda folder: seal(folder, 1, wanted=13, failed=1)
    yield "counts that do not add up", lambda folder: seal(folder, 1, written=9)
    yield "marker in another spacing", lambda folder: (folder / "00001_stats.json").write_text(
        json.dumps(json.loads((folder / "00001_stats.json").read_bytes())))  # fmt: skip
    yield "shards swapped, numbers put right", swap_labels
    yield "document of another seed", edit_document(lambda d: d["recipe"].update(seed=1))
    yield "document of another schema", edit_document(lambda d: d.update(schema=2))
    yield "document of another format", edit_document(lambda d: d.update(format="tfrecord"))
    yield "document without image format", edit_document(lambda d: d["recipe"].pop("image_format"))
    yield "document without plan", edit_document(lambda d: d.pop("plan"))
    yield "plan without shards", edit_document(lambda d: d["plan"].pop("num_shards"))
    yield "plan of no number", edit_document(lambda d: d["plan"].update(num_shards=True))
    yield "plan of another kind", edit_document(lambda d: d.update(plan=[1, 2]))
    yield "plan of fewer shards", edit_document(lambda d: d["plan"].update(num_shards=2))
    yield "plan that does not multiply", edit_document(lambda d: d["plan"].update(wanted=29))


FIRST = identity_name(0)


def folder_faults() -> Iterator[tuple[str, Fault]]:
    """Faults of an imagefolder."""
    for seed in range(4):
        yield f"bit {seed} of an image", flip(f"{FIRST}/0.jpg", seed)
    yield "image gone", delete(f"{FIRST}/0.jpg")
    yield "image cut", cut(f"{FIRST}/0.jpg", lambda data: len(data) // 2)
    yield "image too many", write_file(f"{FIRST}/9.jpg", JPG)
    yield "hidden file in a folder", write_file(f"{FIRST}/.DS_Store", b"x")
    yield "folder too many", write_file("stranger/0.jpg", JPG)
    yield "folder of the failed identity", write_file(f"{identity_name(2)}/0.jpg", JPG)
    yield "folder renamed", lambda folder: (folder / FIRST).rename(folder / "stranger")
    yield "folder gone", lambda folder: shutil.rmtree(folder / FIRST)
    yield "images swapped", exchange(f"{FIRST}/0.jpg", f"{FIRST}/1.jpg")
    yield "tar among folders", write_file("00001.tar", b"")
    third = identity_name(3)
    yield "sealed image of other size", write_file(f"{third}/0.jpg", SMALL, sealed=True)
    yield "sealed image a png", write_file(f"{third}/0.jpg", PNG, sealed=True)
    yield "sealed image gone from the marker", unlist


def unlist(folder: Path) -> None:
    path = folder / "00001_stats.json"
    marker = json.loads(path.read_bytes())
    del marker["files"][f"{identity_name(3)}/0.jpg"]
    path.write_bytes(dump(marker))


def parameters(found: Iterator[tuple[str, Fault]]) -> list[Any]:
    return [pytest.param(fault, id=name) for name, fault in found]
