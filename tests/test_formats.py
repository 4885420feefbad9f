"""Conversions: round trips through every form, outside judges of each, provenance, damage and resumes."""

import gc
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from d2r_fast.engine.cli import parse
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats import contents, table_set
from d2r_fast.engine.formats.listing import Listing, open_listing
from d2r_fast.engine.report import write_report
from d2r_fast.engine.verify import verify
from d2r_fast.recognition.training.training_set import open_training_set

from .fakedata import identity_name, make_dataset, make_document, tree

MAGIC = b"\x0a\x23\xd7\xce"
FORMS = ("webdataset", "recordio", "parquet", "imagefolder")

People = list[tuple[str, list[tuple[str, bytes]]]]


def convert(*words: Any) -> int:
    """Run a command line."""
    return parse(list(map(str, words))).run()


def content(listing: Listing) -> People:
    """Names and bytes of all images, in the order of labels."""
    return [(person.name, [(entry.name, entry.read()) for entry in person]) for person in listing.people]


def picture(seed: int, kind: str = "PNG", *, side: int = 16) -> bytes:
    """A file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four people: one with files of several formats and names, one whose image holds the magic word of RecordIO."""
    root = tmp_path / "people"
    files = {
        "2/1.png": picture(1), "2/10.png": picture(2), "2/9.JPEG": picture(3, "JPEG"),
        "10/a b.webp": picture(4, "WEBP"), "10/é.bmp": picture(5, "BMP"),
        "né 7/0.tiff": picture(6, "TIFF"),
        "x,y/0.png": picture(7) + bytes(-len(picture(7)) % 4) + MAGIC + b"abcd" + MAGIC + MAGIC,
    }  # fmt: skip
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_round_trip_keeps_bytes_labels_order_and_names(folder: Path, tmp_path: Path) -> None:
    wanted = content(open_listing(folder))
    assert [name for name, _ in wanted] == ["2", "10", "né 7", "x,y"]
    assert [name for name, _ in wanted[0][1]] == ["1.png", "9.JPEG", "10.png"]
    source = folder
    for step, to in enumerate((*FORMS, "webdataset")):
        out = tmp_path / f"{step}-{to}"
        assert convert("convert", source, "--to", to, "--out", out, "--identities-per-shard", 3) == 0
        assert content(open_listing(out)) == wanted, to
        source = out
    first, last = tmp_path / "0-webdataset", tmp_path / "4-webdataset"
    for name in ("00000.tar", "00001.tar"):
        assert (first / name).read_bytes() == (last / name).read_bytes()
    for out in (first, last, tmp_path / "3-imagefolder"):
        assert verify(out).problems == []


def test_labels_are_not_those_of_natural_order(tmp_path: Path) -> None:
    """A dataset numbers identities as its ranking has them, and one without images keeps its number."""
    source = make_dataset(tmp_path / "made", make_document(num_identities=11, images=2, per_shard=4))
    order = {label: identity_name(label) for label in range(11)}
    convert(
        "subset", source, "--identities", _names(tmp_path, reversed(order.values())), "--out", tmp_path / "0"
    )
    wanted = content(open_listing(tmp_path / "0"))
    assert [name for name, _ in wanted] == [order[label] for label in range(10, -1, -1)]
    assert wanted[8] == (identity_name(2), [])
    for number, to in enumerate(FORMS):
        out = tmp_path / str(number + 1)
        convert("convert", tmp_path / str(number), "--to", to, "--out", out)
        assert content(open_listing(out)) == wanted, to
    records = open_training_set(tmp_path / "2")
    assert (records.num_classes, records.num_empty) == (10, 1)
    assert records.class_name(8) == "9"  # 8 has no image; the others keep their numbers in the file


def _names(tmp_path: Path, names: Any) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return path


@pytest.mark.parametrize("layout", ["insightface", "im2rec"])
def test_dali_reads_the_records(folder: Path, tmp_path: Path, layout: str) -> None:
    pytest.importorskip("nvidia.dali")
    out = tmp_path / "records"
    convert("convert", folder, "--to", "recordio", "--layout", layout, "--out", out)
    images = [
        (label, data) for label, (_, files) in enumerate(content(open_listing(folder))) for _, data in files
    ]
    found = [(labels.tolist(), data) for labels, data in _by_dali(out)]
    if layout == "im2rec":
        assert found != [([label], data) for label, data in images], "not shuffled"
        assert sorted(found) == sorted(([label], data) for label, data in images)
        return
    assert found[0] == ([8, 12], b"")
    assert found[1:8] == [([label], data) for label, data in images]
    assert found[8:] == [([1, 4], b""), ([4, 6], b""), ([6, 7], b""), ([7, 8], b"")]


def _by_dali(folder: Path) -> list[tuple[np.ndarray, bytes]]:
    """Labels and bytes of every record in the order of the file, by DALI's reader of MXNet's format."""
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    pipe = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipe:
        images, labels = fn.readers.mxnet(
            path=[str(folder / "train.rec")], index_path=[str(folder / "train.idx")], name="records"
        )
        pipe.set_outputs(images, labels)
    pipe.build()
    found = []
    for _ in range(pipe.epoch_size("records")):
        image, label = pipe.run()
        found.append((np.array(label.at(0)), image.at(0).tobytes()))
    return found


def test_records_go_with_a_list_and_a_property(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "records"
    convert("convert", folder, "--to", "recordio", "--out", out)
    lines = (out / "train.lst").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "1\t0\t2/1.png"
    assert lines[3:5] == ["4\t1\t10/a b.webp", "5\t1\t10/é.bmp"]
    assert lines[-1] == "7\t3\tx,y/0.png"
    assert (out / "property").read_text() == "4,16,16\n"
    assert (out / "labels.txt").read_text(encoding="utf-8") == "2\n10\nné 7\nx,y\n"
    training = open_training_set(out)
    assert training.labels.tolist() == [0, 0, 0, 1, 1, 2, 3]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves the closing of files to chance
def test_webdataset_reads_the_tars(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tars"
    convert("convert", folder, "--to", "webdataset", "--identities-per-shard", 2, "--out", out)
    shards = [str(path) for path in sorted(out.glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    gc.collect()
    found = [
        (int(s["cls"]), next(s[k] for k in ("png", "jpg", "webp", "bmp", "tif") if k in s)) for s in samples
    ]
    wanted = content(open_listing(folder))
    assert found == [(label, data) for label, (_, files) in enumerate(wanted) for _, data in files]
    assert {json.loads(sample["json"])["identity"] for sample in samples} == {name for name, _ in wanted}


def test_parquet_is_what_datasets_expects(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_set, "ROWS_PER_GROUP", 2)
    out = tmp_path / "tables"
    convert("convert", folder, "--to", "parquet", "--identities-per-shard", 3, "--out", out)
    assert sorted(path.name for path in out.glob("*.parquet")) == [
        "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"
    ]  # fmt: skip
    file = pq.ParquetFile(out / "train-00000-of-00002.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2, 2]
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"_type": "ClassLabel", "names": ["2", "10", "né 7", "x,y"]}
    assert list(features) == file.schema_arrow.names
    assert str(file.schema_arrow.field("image").type) == "struct<bytes: binary, path: string>"
    tables = [
        pq.ParquetFile(path).read(["image", "label", "identity"]) for path in sorted(out.glob("*.parquet"))
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    wanted = content(open_listing(folder))
    assert rows == [
        {"image": {"bytes": data, "path": name}, "label": label, "identity": identity}
        for label, (identity, files) in enumerate(wanted)
        for name, data in files
    ]


@pytest.mark.parametrize("to", FORMS)
def test_provenance_goes_along(tmp_path: Path, to: str) -> None:
    source = make_dataset(tmp_path / "made", make_document(num_identities=3, images=2))
    document = json.loads((source / "dataset.json").read_bytes())
    for step in (1, 2):
        convert("convert", source, "--to", to, "--out", source := tmp_path / str(step))
    name = "dataset.json" if to in ("webdataset", "imagefolder") else "origin.json"
    found = json.loads((source / name).read_bytes())
    assert found["made_from"][0]["made_from"] == [document]
    assert (found["models"], found["licences"], found["models_kind"]) == (
        document["models"],
        ["MIT"],
        "released",
    )
    card = (source / "README.md").read_text(encoding="utf-8")
    assert "arc2face/model.safetensors | MIT" in card
    assert "- synthetic" in card
    assert (source / "_SUCCESS").exists()


@pytest.mark.parametrize("to", ["webdataset", "imagefolder", "parquet"])
def test_what_was_recorded_of_an_image_goes_along(tmp_path: Path, to: str) -> None:
    source = make_dataset(tmp_path / "made", make_document(num_identities=3, images=2))
    rows = [row for path in ("00000.parquet",) for row in pq.read_table(source / path).to_pylist()]
    written = {row["key"]: row for row in rows if row["status"] == "written"}
    convert("convert", source, "--to", to, "--out", tmp_path / "out")
    records = [
        json.loads(str(entry.record)) for person in open_listing(tmp_path / "out").people for entry in person
    ]
    assert records == list(written.values())
    assert records[0]["landmarks"] == [float(i) for i in range(10)]


@pytest.mark.parametrize("to", FORMS)
def test_doing_it_again_changes_nothing_and_another_is_refused(folder: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / "out"
    convert("convert", folder, "--to", to, "--out", out)
    before = tree(out)
    convert("convert", folder, "--to", to, "--out", out)
    assert tree(out) == before
    (folder / "2" / "1.png").rename(folder / "2" / "2.png")
    with pytest.raises(UserError, match=r"holds another (dataset|conversion): source.fingerprint is"):
        convert("convert", folder, "--to", to, "--out", out)
    assert tree(out) == before


@pytest.mark.parametrize("to", FORMS)
def test_an_interrupted_conversion_is_finished(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """The last image cannot be read at first: what is there then does not count, and the rerun gives the same bytes."""
    words = ("convert", folder, "--to", to, "--identities-per-shard", 1, "--out")
    convert(*words, tmp_path / "whole")
    last = folder / "x,y" / "0.png"
    last.rename(tmp_path / "aside")
    last.symlink_to(tmp_path / "gone")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"image .*x,y/0\.png cannot be read \(No such file or directory\)"):
        convert(*words, out)
    assert not (out / "_SUCCESS").exists()
    assert not (out / "train.idx").exists()
    last.unlink()
    (tmp_path / "aside").rename(last)
    convert(*words, out)
    assert tree(out) == tree(tmp_path / "whole")


def test_unreadable_images_are_left_out_when_allowed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "2" / "9.JPEG").write_bytes(b"")
    (folder / "10" / "a b.webp").write_bytes(b"<html>")
    with pytest.raises(
        UserError, match=r"9\.JPEG is empty: mend it, or leave such images out by --max-unread"
    ):
        convert("convert", folder, "--to", "recordio", "--out", tmp_path / "no")
    with pytest.raises(
        UserError, match=r"more than 1 images cannot be read, the last .*a b\.webp, which is no"
    ):
        convert("convert", folder, "--to", "recordio", "--out", tmp_path / "no2", "--max-unreadable", 1)
    assert not (tmp_path / "no2").exists()
    convert("convert", folder, "--to", "recordio", "--out", tmp_path / "out", "--max-unreadable", 2)
    found = content(open_listing(tmp_path / "out"))
    assert [[name for name, _ in files] for _, files in found] == [
        ["1.png", "10.png"],
        ["é.bmp"],
        ["0.tiff"],
        ["0.png"],
    ]
    recipe = json.loads((tmp_path / "out" / "origin.json").read_bytes())["recipe"]
    assert recipe["left_out"] == ["2/9.JPEG", "10/a b.webp"]
    assert "left out: 2/9.JPEG" in capsys.readouterr().err


def test_what_reads_a_form_reads_ours(folder: Path, tmp_path: Path) -> None:
    """A training set opened on each form has the same images under the same labels."""
    wanted = [
        (label, data) for label, (_, files) in enumerate(content(open_listing(folder))) for _, data in files
    ]
    for to in ("webdataset", "imagefolder", "recordio"):
        convert("convert", folder, "--to", to, "--out", tmp_path / to)
        images = open_training_set(tmp_path / to)
        assert [(int(label), images.read(row)) for row, label in enumerate(images.labels)] == wanted, to


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--to", "bin", "--out", "o.bin"], "bin takes --pairs FILE"),
        (["--to", "parquet", "--pairs", "p", "--out", "o"], "bin takes --pairs FILE"),
        (["--to", "parquet", "--layout", "im2rec", "--out", "o"], "layout im2rec is recordio's"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        parse(["convert", "people", *words])


def test_out_is_not_the_source_nor_anybody_elses(folder: Path, tmp_path: Path) -> None:
    for out in (folder, folder / "new", tmp_path):
        with pytest.raises(UserError, match="lie in one another"):
            convert("convert", folder, "--to", "parquet", "--out", out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds thesis\.tex and no origin\.json"):
        convert("convert", folder, "--to", "parquet", "--out", tmp_path / "other")


def test_names_that_no_list_can_hold_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "2").rename(folder / "a\tb")
    with pytest.raises(UserError, match=r"identity 'a\\tb' cannot be a folder or a line of a list"):
        convert("convert", folder, "--to", "recordio", "--out", tmp_path / "out")


def test_damaged_sidecars_are_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert("convert", folder, "--to", "recordio", "--out", out)
    labels = (out / "labels.txt").read_bytes()
    (out / "labels.txt").write_text("2\n10\n")
    with pytest.raises(UserError, match=r"labels\.txt names 2 identities of 4"):
        open_listing(out)
    (out / "labels.txt").write_bytes(labels)
    (out / "origin.json").write_text("{}")
    with pytest.raises(UserError, match=r"origin\.json is damaged"):
        open_listing(out)
    (out / "origin.json").unlink()
    for foreign in ("1\tpeople/2/1.png\t0\n1\tpeople/2/9.JPEG\t0\n", "one\ttwo\n", None):
        (out / "train.lst").unlink() if foreign is None else (out / "train.lst").write_text(foreign)
        assert [entry.name for entry in open_listing(out).people[0]] == ["1.png", "2.jpg", "3.png"]


def test_a_converted_dataset_is_verified_and_has_no_report(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert("convert", folder, "--to", "webdataset", "--out", out)
    spoilt = shutil.copytree(out, tmp_path / "spoilt")
    data = bytearray((spoilt / "00000.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (spoilt / "00000.tar").write_bytes(data)
    assert verify(spoilt).problems == ["00000.tar does not have the SHA-256 that 00000_stats.json gives it"]
    with pytest.raises(UserError, match="was converted, and a report shows how images were made"):
        write_report(out)


def test_images_are_read_ahead_and_in_order(folder: Path) -> None:
    entries = [entry for person in open_listing(folder).people for entry in person]
    found = list(contents.contents(entries * 40))
    assert [entry for entry, _ in found] == entries * 40
    assert all(data == entry.read() for entry, data in found[:7])
