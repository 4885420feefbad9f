"""Training sets of every form: labels, bytes, choices, mixtures, and folders that are not what they seem."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2r_fast.engine import open_files
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.records import Record, open_writer, write_identities
from d2r_fast.engine.marker import image_key
from d2r_fast.recognition.training.record_set import RecordSet
from d2r_fast.recognition.training.training_set import (
    check_training_set,
    choose,
    mix,
    open_training_set,
)

from . import recordbytes as golden
from .fakedata import make_dataset, make_document, make_rows, open_dataset, write
from .fakesets import Fake, fake


def make_folder(root: Path, images: dict[str, list[str]]) -> Path:
    for identity, names in images.items():
        (root / identity).mkdir(parents=True)
        for name in names:
            (root / identity / name).write_bytes(f"{identity}/{name}".encode())
    return root


def make_records(root: Path, records: bytes = golden.RECORDS, index: bytes = golden.INDEX) -> Path:
    root.mkdir(exist_ok=True)
    (root / "train.rec").write_bytes(records)
    (root / "train.idx").write_bytes(index)
    return root


def wanted(document: dict[str, Any]) -> list[tuple[int, str, bytes]]:
    """Label, key and bytes of every image of the fake dataset, in order."""
    made = [make_rows(document, shard) for shard in range(document["plan"]["num_shards"])]
    return [
        (row.label, row.key, shard["images"][row.key])
        for shard in made
        for row in shard["rows"]
        if row.status == "written"
    ]


def test_a_folder(tmp_path: Path):
    root = make_folder(
        tmp_path / "faces", {"10": ["0.png"], "2": ["10.jpg", "9.png"], "empty": [], "a": ["x.JPG"]}
    )
    (root / "2" / "notes.txt").write_text("no image")
    images = open_training_set(root)
    assert [images.key(i) for i in range(4)] == ["2/9.png", "2/10.jpg", "10/0.png", "a/x.JPG"]
    assert images.labels.tolist() == [0, 0, 1, 2]
    assert images.labels.dtype == np.int64
    assert [images.read(i) for i in range(4)] == [b"2/9.png", b"2/10.jpg", b"10/0.png", b"a/x.JPG"]
    assert [images.class_name(label) for label in range(3)] == ["2", "10", "a"]
    summary = check_training_set(images)
    assert summary.line() == (
        "4 images of 3 identities, 1 to 2 each; 2 with one image only; 1 without images dropped"
    )


@pytest.mark.parametrize("format", ["webdataset", "imagefolder"])
def test_our_own_dataset(tmp_path: Path, format: str):
    document = make_document(num_identities=12, images=12, format=format)
    expected = wanted(document)
    images = open_training_set(make_dataset(tmp_path / "set", document))
    # Identity 2 could not be made: 3 becomes class 2, and so on.
    assert images.labels.tolist() == [label - (label > 2) for label, _, _ in expected]
    assert [images.class_name(label) for label in range(11)] == [str(n) for n in range(12) if n != 2]
    assert [images.read(i) for i in range(len(expected))] == [data for _, _, data in expected]
    if format == "webdataset":
        assert [images.key(i) for i in range(len(expected))] == [key for _, key, _ in expected]
    else:
        numbers = [(int(key[:6]), int(key[7:])) for _, key, _ in expected]
        assert [images.key(i) for i in range(len(expected))] == [f"né {a}/{b}.jpg" for a, b in numbers]
    assert check_training_set(images).num_empty == 1


def test_the_order_is_the_plans_beyond_ten_images(tmp_path: Path):
    """As text 10.jpg comes before 2.jpg."""
    document = make_document(num_identities=2, images=12, format="imagefolder")
    images = open_training_set(make_dataset(tmp_path / "set", document))
    numbers = [int(images.key(i).split("/")[1].split(".")[0]) for i in range(len(images.labels))]
    assert all(
        a < b for a, b, same in zip(numbers, numbers[1:], np.diff(images.labels) == 0, strict=False) if same
    )
    assert max(numbers) >= 10


def num_open() -> int:
    """Files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_threads_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """More shards than files may stay open."""
    monkeypatch.setattr(open_files, "MAX_OPEN", 2)
    document = make_document(num_identities=7, per_shard=1)
    images = open_training_set(make_dataset(tmp_path / "set", document))
    before = num_open()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(images.read, list(range(len(images.labels))) * 20))
    assert found == [data for _, _, data in wanted(document)] * 20
    assert num_open() <= before + 2
    del images
    assert num_open() == before


@pytest.mark.parametrize("format", ["webdataset", "imagefolder"])
def test_an_unfinished_dataset_is_refused(tmp_path: Path, format: str):
    document = make_document(format=format)
    root = tmp_path / "set"
    with open_dataset(root, document):
        write(root, document, 0)
    message = (
        f"dataset {root} is unfinished: 2 of 3 shards are not whole (00001_stats.json is missing): run the "
        "command that makes it again, until it is done"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        open_training_set(root)


def test_a_tar_cut_short_is_refused(tmp_path: Path):
    root = make_dataset(tmp_path / "set", make_document())
    data = (root / "00001.tar").read_bytes()
    (root / "00001.tar").write_bytes(data[:-512])
    with pytest.raises(
        UserError, match=r"unfinished: 1 of 3 shards are not whole \(00001.tar has .* bytes, not"
    ):
        open_training_set(root)


@pytest.mark.parametrize(("at", "by"), [(0, b"X"), (124, b"7"), (512 * 2 + 3, b"\xff")])
def test_a_damaged_tar_is_refused(tmp_path: Path, at: int, by: bytes):
    """A name, a size and a header of zeros for digits changed in place: sizes still fit the marker."""
    root = make_dataset(tmp_path / "set", make_document())
    data = bytearray((root / "00000.tar").read_bytes())
    data[at : at + len(by)] = by
    (root / "00000.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"00000.tar is damaged at byte (0|1024)"):
        open_training_set(root)


def test_shards_that_lost_a_label_are_refused(tmp_path: Path):
    root = make_dataset(tmp_path / "set", make_document())
    data = (root / "00000.tar").read_bytes()
    key = image_key(0, 0).encode()
    header = bytearray(data[:512])
    assert header.startswith(key + b".cls")
    header[len(key) + 1 : len(key) + 4] = b"txt"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (root / "00000.tar").write_bytes(bytes(header) + data[512:])
    with pytest.raises(UserError, match=rf"{key.decode()}.jpg has no label \({key.decode()}.cls\)"):
        open_training_set(root)


def test_records_with_identities(tmp_path: Path):
    images = open_training_set(make_records(tmp_path / "ms1m"))
    assert images.name == "ms1m"
    assert [images.read(i) for i in range(4)] == golden.IMAGES
    assert images.labels.tolist() == golden.LABELS
    assert [images.key(i) for i in range(4)] == ["1", "2", "3", "4"]
    assert images.num_classes == 2


def test_records_without_identities(tmp_path: Path):
    """As im2rec writes them: every key is an image, in any order, its label alone or first of several."""
    with open_writer(tmp_path) as writer:
        writer.write(2, Record(np.array([1], np.float32), b"two"))
        writer.write(0, Record(np.array([0], np.float32), b"zero"))
        writer.write(1, Record(np.array([1, 9, 9], np.float32), b"one", flag=3))
    images = open_training_set(tmp_path)
    assert [(images.key(i), images.read(i)) for i in range(3)] == [
        ("0", b"zero"),
        ("1", b"one"),
        ("2", b"two"),
    ]
    assert images.labels.tolist() == [0, 1, 1]


def test_records_announced_by_property(tmp_path: Path):
    write_identities(tmp_path, [b"a", b"b", b"c"], counts=[1, 0, 2, 0])
    (tmp_path / "property").write_text("5,112,112\n")
    images = open_training_set(tmp_path)
    assert images.labels.tolist() == [0, 1, 1]
    assert images.class_name(1) == "2"
    assert (images.num_classes, images.num_empty) == (2, 3)
    (tmp_path / "property").write_text("2,112,112")
    with pytest.raises(UserError, match=r"record 2 has label 2: .* from 0 to 1 \(property says 2 classes\)"):
        open_training_set(tmp_path)
    (tmp_path / "property").write_text("classes")
    with pytest.raises(UserError, match="is no property file"):
        open_training_set(tmp_path)


@pytest.mark.parametrize("label", [0.5, -1.0, float("nan"), float("inf"), 2.0**24])
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, label: float):
    with open_writer(tmp_path) as writer:
        for key, value in enumerate([0.0, 1.0, label]):
            writer.write(key, Record(np.array([value], np.float32), b"x"))
    with pytest.raises(
        UserError, match=r"record 2 has label \S+: expected a whole number from 0 to 16,777,215"
    ):
        open_training_set(tmp_path)


@pytest.mark.parametrize(
    ("records", "index", "text"),
    [
        (golden.RECORDS[:100], golden.INDEX, r"train.rec does not fit train.idx: the file ends"),
        (golden.RECORDS, golden.INDEX.replace(b"176", b"999"), "the file ends at byte 999"),
        (golden.RECORDS, golden.INDEX.replace(b"176", b"177"), "no record begins at byte 177"),
        (golden.RECORDS, golden.INDEX[4:], "has no key 0"),
        (golden.RECORDS, b"0\t0\n1\t40\n", "lacks images: record 0 says that keys 1 to 4 are images"),
        (golden.RECORDS, golden.INDEX.replace(b"2\t80\n", b""), "lacks images"),
        (
            golden.RECORDS.replace(b"\x00\x00\xa0\x40", b"\x00\x00\xc0\x7f", 1),
            golden.INDEX,
            "says nan ends the images",
        ),
        (b"", golden.INDEX, "the file ends at byte 0"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, records: bytes, index: bytes, text: str):
    with pytest.raises(UserError, match=text) as error:
        open_training_set(make_records(tmp_path, records, index))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["train.rec", "train.idx"])
def test_half_a_record_set_is_refused(tmp_path: Path, missing: str):
    (make_records(tmp_path) / missing).unlink()
    with pytest.raises(UserError, match=f"{missing} is missing: RecordIO takes train.rec and train.idx"):
        open_training_set(tmp_path)


def test_a_record_damaged_later_is_that_images_problem(tmp_path: Path):
    images = RecordSet(make_records(tmp_path))
    data = golden.RECORDS.replace(b"wxyz" + golden.MAGIC, b"wxyz0000")
    (tmp_path / "train.rec").write_bytes(data)
    assert images.read(0) == b"ABCDE"
    with pytest.raises(OSError, match="no record begins at byte 116"):
        images.read(1)


def test_what_is_no_training_set(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"nowhere does not exist: give a dataset of d2r-fast, a folder laid out as"
    ):
        open_training_set(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no identity folders"):
        open_training_set(tmp_path)
    make_folder(tmp_path, {"only": ["0.png", "1.png"]})
    with pytest.raises(UserError, match="holds one identity: telling people apart takes at least two"):
        open_training_set(tmp_path)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (fake(0, 1, -1), "has label -1: its 2 classes are 0 to 1"),
        (fake(0, 1, 2, num_classes=2), "has label 2: its 2 classes are 0 to 1"),
        (fake(0, 2, 2), "has no image with label 1: number the classes 0 to 2 without gaps"),
        (fake(0, 1, num_classes=3), "has no image with label 2"),
        (fake(num_classes=2), "holds no image"),
        (fake(0, 0), "holds one identity"),
    ],
)
def test_labels_are_checked(images: Fake, text: str):
    with pytest.raises(UserError, match=text):
        check_training_set(images)


def test_chosen_identities_are_nested_and_stay_as_they_are():
    everyone = fake(*np.repeat(np.arange(50), 3).tolist())
    few, more = (choose(everyone, num_identities=n, seed=7) for n in (10, 30))
    names = [few.class_name(label) for label in range(10)]
    assert set(names) < {more.class_name(label) for label in range(30)}
    assert names == sorted(names, key=int)
    assert few.labels.tolist() == np.repeat(np.arange(10), 3).tolist()
    for row, label in enumerate(few.labels):
        assert everyone.class_name(everyone.labels[int(few.key(row))]) == few.class_name(int(label))
        assert few.read(row) == everyone.read(int(few.key(row)))
    assert few.name == "fake (10 of 50 identities)"
    assert check_training_set(few).num_images == 30


def test_another_seed_chooses_others():
    everyone = fake(*range(200))
    chosen = [{choose(everyone, num_identities=20, seed=seed).key(i) for i in range(20)} for seed in range(3)]
    assert chosen[0] != chosen[1] != chosen[2]
    counts = np.zeros(200)
    for seed in range(200):
        part = choose(everyone, num_identities=20, seed=seed)
        counts[[int(part.key(i)) for i in range(20)]] += 1
    assert counts.sum() == 4000
    assert counts.max() < 45, "each of 200 is chosen about 20 times in 200"


@pytest.mark.parametrize("num_identities", [0, -1, 6])
def test_more_identities_than_there_are(num_identities: int):
    with pytest.raises(
        UserError, match=f"{num_identities} identities of fake: it has 5, give 1 to that many"
    ):
        choose(fake(*range(5)), num_identities=num_identities, seed=0)


def test_a_mixture():
    both = mix(fake(0, 1, 1, name="a"), fake(0, 0, 1, 2, name="b"))
    assert both.labels.tolist() == [0, 1, 1, 2, 2, 3, 4]
    assert [both.read(i) for i in (0, 2, 3, 6)] == [b"a 0", b"a 2", b"b 0", b"b 3"]
    assert [both.key(i) for i in range(7)] == ["1:0", "1:1", "1:2", "2:0", "2:1", "2:2", "2:3"]
    assert [both.class_name(label) for label in range(5)] == ["1:0", "1:1", "2:0", "2:1", "2:2"]
    assert (both.num_classes, both.name) == (5, "a + b")
    check_training_set(both)


def test_the_fingerprint_tells_keys_and_labels_apart():
    prints = [fake(0, 1, 1).fingerprint(), fake(0, 0, 1).fingerprint(), fake(0, 1, 1, 1).fingerprint()]
    renamed = fake(0, 1, 1)
    renamed.key = lambda index: f"0{index}"  # type: ignore[method-assign]
    prints.append(renamed.fingerprint())
    assert len(set(prints)) == 4
    assert prints[0] == fake(0, 1, 1, name="elsewhere").fingerprint()
    # Written out: three keys, each ended by NUL, then the labels as little-endian words of eight bytes.
    text = b"0\x001\x002\x00" + b"".join(label.to_bytes(8, "little") for label in (0, 1, 1))
    assert prints[0] == hashlib.sha256(text).hexdigest()
