"""Forms of sources beside zips and tars, which one a path has, and what all packed ones have in common."""

import json
import multiprocessing
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import open_images, open_source
from d2r_fast.engine.sources import row_groups

from .archives import MANY, content, folder_of, same, tar_of, zip_of

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
