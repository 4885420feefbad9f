"""Shards on disk: equal rows give equal bytes, others can read them, and no kill or full disk spoils them."""

import gc
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image, JpegImagePlugin

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.marker import dump
from d2r_fast.engine.rows import SCHEMAS, IdentityRow, ImageRow, as_dict, read_table, table_bytes
from d2r_fast.engine.verify_shard import verify_shard
from d2r_fast.engine.write import check_names, encode, write_shard

from .fakedata import (
    identity_name,
    make_dataset,
    make_document,
    make_image,
    make_rows,
    names_in,
    open_dataset,
    tree,
    write,
)
from .test_files import file_size_limit


def folder_for(path: Path, document: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "dataset.json").write_bytes(dump(document))
    return path


@pytest.mark.parametrize("format", ["webdataset", "imagefolder"])
@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_equal_rows_give_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, image_format: str
) -> None:
    """Whatever the clock, the process's number, the order of errors, or what lay there before."""
    document = make_document(format=format, image_format=image_format)
    first, second = folder_for(tmp_path / "a", document), folder_for(tmp_path / "b", document)
    write(first, document, 0)
    later = time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(os, "getpid", lambda: 99_999)
    write(second, make_document(format=format, image_format=image_format, images=2), 0)
    rows = make_rows(document, 0)
    rows["errors"].reverse()
    rows["images"] = dict(reversed(rows["images"].items()))
    write_shard(second, 0, **rows, format=format, image_format=image_format)
    assert tree(first) == tree(second)


def test_marker_says_what_is_there(tmp_path: Path) -> None:
    document = make_document()
    folder = folder_for(tmp_path / "a", document)
    marker = write(folder, document, 0)
    assert marker == json.loads((folder / "00000_stats.json").read_text())
    assert [marker[name] for name in ("shard", "wanted", "written", "rejected", "failed")] == [0, 12, 7, 1, 4]
    files = tree(folder)
    assert {name: entry["sha256"] for name, entry in marker["files"].items()} == {
        name: files[name] for name in files if name not in {"dataset.json", "00000_stats.json"}
    }
    assert all(entry["bytes"] == (folder / name).stat().st_size for name, entry in marker["files"].items())


def test_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = make_document()
    folder = folder_for(tmp_path / "a", document)
    seen: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda path, target: seen.append(target.name) or replace(path, target))
    write(folder, document, 1)
    assert seen == [
        "00001.tar",
        "00001.parquet",
        "00001_identities.parquet",
        "00001_errors.jsonl",
        "00001_stats.json",
    ]


def test_tar_members_have_nothing_of_the_machine(tmp_path: Path) -> None:
    document = make_document()
    folder = folder_for(tmp_path / "a", document)
    write(folder, document, 0)
    with tarfile.open(folder / "00000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:3]] == ["000000_000.cls", "000000_000.jpg", "000000_000.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
        (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
    }
    assert len(members) == 3 * 7


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves the closing of files to chance
@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_webdataset_reads_it_back(tmp_path: Path, image_format: str) -> None:
    document = make_document(image_format=image_format)
    make_dataset(tmp_path / "a", document)
    url = f"{tmp_path}/a/{{00000..00002}}.tar"
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode("rgb8"))
    gc.collect()
    rows = [
        row for shard in range(3) for row in make_rows(document, shard)["rows"] if row.status == "written"
    ]
    assert [sample["__key__"] for sample in samples] == [row.key for row in rows]
    for sample, row in zip(samples, rows, strict=True):
        assert sample["cls"] == row.label
        assert sample["json"] == as_dict(row)
        image = make_image(0, row.label, row.image)
        assert sample[image_format].shape == (112, 112, 3)
        worst = np.abs(sample[image_format].astype(int) - image).max()
        assert worst == 0 if image_format == "png" else worst < 12


def test_pyarrow_reads_every_wanted_image_back(tmp_path: Path) -> None:
    document = make_document()
    make_dataset(tmp_path / "a", document)
    for shard in range(3):
        made = make_rows(document, shard)
        assert read_table(ImageRow, tmp_path / "a" / f"{shard:05d}.parquet") == made["rows"]
        found = read_table(IdentityRow, tmp_path / "a" / f"{shard:05d}_identities.parquet")
        assert found == made["identities"]
    table = pq.read_table([tmp_path / "a" / f"{shard:05d}.parquet" for shard in range(3)])
    assert table.num_rows == 28
    assert table["label"].to_pylist() == [label for label in range(7) for _ in range(4)]
    assert table.schema.field("landmarks").type == pa.list_(pa.float64())


def test_errors_are_in_the_order_of_labels(tmp_path: Path) -> None:
    document = make_document()
    folder = folder_for(tmp_path / "a", document)
    write(folder, document, 0)
    lines = [json.loads(line) for line in (folder / "00000_errors.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["identity"], line["key"]) for line in lines] == [
        ("detect", identity_name(1), "000001_003"), ("embed", identity_name(2), "0.png"),
    ]  # fmt: skip
    assert list(lines[0]) == ["stage", "identity", "key", "error", "reason"]


def test_columns_of_nothing_but_none_keep_their_type() -> None:
    rows = [ImageRow(key="000000_000", label=0, identity="a", image=0, status="failed", reason="no renders")]
    for given in (rows, []):
        table = pq.read_table(io.BytesIO(table_bytes(ImageRow, given)))
        assert table.schema.equals(SCHEMAS[ImageRow])
    assert table_bytes(ImageRow, rows) == table_bytes(ImageRow, list(rows))
    assert b"pandas" not in table_bytes(ImageRow, rows)


def test_a_shard_with_no_image_at_all(tmp_path: Path) -> None:
    document = make_document(num_identities=3, per_shard=1)
    for format in ("webdataset", "imagefolder"):
        folder = folder_for(tmp_path / format, document)
        marker = write(folder, document | {"format": format}, 2)
        assert (marker["written"], marker["failed"]) == (0, 4)
        assert not [path for path in folder.iterdir() if path.is_dir()]


def test_jpeg_keeps_full_colour_and_png_every_bit() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    jpeg = Image.open(io.BytesIO(encode(image, "jpg", 95)))
    assert jpeg.format == "JPEG"
    assert JpegImagePlugin.get_sampling(jpeg) == 0
    assert len(encode(image, "jpg", 50)) < len(encode(image, "jpg", 95)) < len(encode(image, "jpg", 100))
    png = Image.open(io.BytesIO(encode(image, "png", 95)))
    assert png.format == "PNG"
    np.testing.assert_array_equal(np.asarray(png), image)


def test_png_is_packed_by_runs_alone() -> None:
    """What comes back after seven pixels is a match for zlib's default, and no run."""
    pattern = np.tile(np.random.default_rng(0).integers(0, 256, (112, 7, 3), np.uint8), (1, 16, 1))
    default = io.BytesIO()
    Image.fromarray(pattern).save(default, "PNG")
    assert len(encode(pattern, "png", 95)) > 2 * default.tell()
    plain = np.full((112, 112, 3), 128, np.uint8)
    assert len(encode(plain, "png", 95)) < 1000


def test_imagefolder_layout(tmp_path: Path) -> None:
    document = make_document(format="imagefolder")
    make_dataset(tmp_path / "a", document)
    folders = {p.name: sorted(f.name for f in p.iterdir()) for p in (tmp_path / "a").iterdir() if p.is_dir()}
    assert folders[identity_name(0)] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert folders[identity_name(1)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert identity_name(2) not in folders
    assert len(folders) == 6
    assert not list((tmp_path / "a").glob("*.tar"))
    image = np.asarray(Image.open(tmp_path / "a" / identity_name(1) / "2.jpg"))
    assert np.abs(image.astype(int) - make_image(0, 1, 2)).max() < 12


def test_folder_of_an_earlier_try_is_replaced(tmp_path: Path) -> None:
    document = make_document(format="imagefolder")
    folder = folder_for(tmp_path / "a", document)
    left = folder / identity_name(0)
    left.mkdir()
    (left / "0.jpg").write_bytes(b"half an ima")
    (left / "77.jpg").write_bytes(b"of another recipe")
    write(folder, document, 0)
    assert sorted(path.name for path in left.iterdir()) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert not [name for name in names_in(folder) if name.startswith(".")]


def test_long_identity_names(tmp_path: Path) -> None:
    """A name as long as the file system allows leaves no room for a suffix of ours."""
    document = make_document(num_identities=1, images=1, format="imagefolder")
    made = make_rows(document, 0)
    name = "x" * 255
    made["rows"] = [ImageRow(**as_dict(row) | {"identity": name}) for row in made["rows"]]
    made["identities"] = [IdentityRow(**as_dict(row) | {"identity": name}) for row in made["identities"]]
    folder = folder_for(tmp_path / "a", document)
    write_shard(folder, 0, **made, format="imagefolder", image_format="jpg")
    assert (folder / name / "0.jpg").exists()


OURS = (
    ".lock README.md _SUCCESS dataset.json events.jsonl 00003.tar 00012.parquet 123456_stats.json "
    "00000_errors.jsonl 00000_identities.parquet"
)


@pytest.mark.parametrize("name", OURS.split())
def test_names_of_our_own_files_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="rename its source folder"):
        check_names(["1", name], format="imagefolder")
    check_names(["1", name], format="webdataset")


def test_other_names_are_fine() -> None:
    check_names(
        ["0003.tar", "00003", "readme.md", "00003_stats", "00003.tar.gz", "x00003.tar"], format="imagefolder"
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda made: made["rows"].reverse(), "order of"),
        (lambda made: made["rows"].append(made["rows"][-1]), "each once"),
        (lambda made: made["images"].popitem(), "images are not"),
        (lambda made: made["images"].update({"000009_000": b""}), "images are not"),
        (lambda made: made["identities"].reverse(), "identities are not in the order"),
        (
            lambda made: made["rows"].__setitem__(
                0, ImageRow(key="x", label=0, identity="a", image=0, status="failed")
            ),
            "key",
        ),
    ],
)
def test_rows_that_do_not_fit_are_a_bug(tmp_path: Path, spoil: Any, message: str) -> None:
    made = make_rows(make_document(), 0)
    spoil(made)
    with pytest.raises(AssertionError, match=message):
        write_shard(tmp_path, 0, **made, format="webdataset", image_format="jpg")
    assert not list(tmp_path.iterdir())


def test_numbers_that_json_has_not_are_a_bug(tmp_path: Path) -> None:
    document = make_document()
    folder = folder_for(tmp_path / "a", document)
    made = make_rows(document, 0)
    made["rows"][0] = ImageRow(**as_dict(made["rows"][0]) | {"score": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_shard(folder, 0, **made, format="webdataset", image_format="jpg")
    assert names_in(folder) == ["dataset.json"]


@pytest.mark.parametrize("format", ["webdataset", "imagefolder"])
def test_full_disk_at_any_byte(tmp_path: Path, format: str) -> None:
    """20 limits from little to almost enough: one line, no half file, good markers, the rerun identical."""
    document = make_document(num_identities=4, per_shard=2, format=format)
    whole = tree(make_dataset(tmp_path / "whole", document))
    largest = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    folder = tmp_path / "a"
    for limit in np.random.default_rng(1).integers(700, largest, 20):
        with file_size_limit(int(limit)), pytest.raises(RunError) as error:
            make_dataset(folder, document)
        assert str(folder) in str(error.value)
        assert "bytes" in str(error.value)
        assert "\n" not in str(error.value)
        assert not [name for name in names_in(folder) if name.endswith(".tmp")]
        with open_dataset(folder, document) as dataset:
            for shard in dataset.finished:
                assert verify_shard(folder, document, shard, quick=False).problems == []
    assert tree(make_dataset(folder, document)) == whole


def test_no_room_for_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = make_document()
    folder = folder_for(tmp_path / "a", document)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 10_000}))
    with pytest.raises(RunError, match="has 10,000 bytes free"):
        write(folder, document, 0)
    assert names_in(folder) == ["dataset.json"]


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a kill loses nothing that a process gave to the kernel, so the
    test need not wait for a disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_kills_leave_no_trace(memory_folder: Path) -> None:
    """SIGKILL 20 times at random, and at every single change of the file system, in both formats."""
    plans: list[tuple[str, dict[str, Any]]] = [
        ("random", {"num_identities": 60, "per_shard": 2, "images": 3}),
        ("each", {"num_identities": 2, "per_shard": 2, "images": 2}),
        ("each", {"num_identities": 2, "per_shard": 2, "images": 2, "format": "imagefolder"}),
    ]
    arguments = [part for mode, plan in plans for part in (mode, json.dumps(make_document(**plan)))]
    killer = Path(__file__).with_name("killer.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", killer, memory_folder, *arguments],
        env=os.environ
        | {"PYTHONPATH": str(killer.parent)},  # PYTHONSAFEPATH may hide the script's own folder
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    at_random, each_webdataset, each_imagefolder = map(int, done.stdout.split())
    assert at_random == 20
    assert each_webdataset > 25
    assert each_imagefolder > 40


def test_finished_shards_are_left_alone(tmp_path: Path) -> None:
    document = make_document()
    make_dataset(tmp_path / "a", document)
    before = {
        path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "a").glob("0000[02]*")
    }
    (tmp_path / "a" / "00001.tar").unlink()
    with open_dataset(tmp_path / "a", document) as dataset:
        assert dataset.unfinished == [1]
    make_dataset(tmp_path / "a", document)
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in before}
