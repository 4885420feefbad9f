"""Reports of datasets that are damaged: one line that names the file, or the rest of the page."""

import json
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine.demo import run_demo
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.marker import document_digest, read_marker
from d2r_fast.engine.report import write_report
from d2r_fast.engine.summary import summarise

from .fakereport import NAMES, fake_dataset, fake_document, make_renders, one_line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset, only to be read, with its report."""
    folder = tmp_path_factory.mktemp("made")
    fake_dataset(folder / "set", make_renders(folder / "renders", NAMES), names=NAMES, num_images=6)
    write_report(folder / "set")
    return folder / "set"


@pytest.fixture
def renders(tmp_path: Path) -> Path:
    return make_renders(tmp_path / "renders", NAMES)


SECTIONS = ["recipe", "models", "versions", "source", "plan", "format", "licences"]
WRONG = [
    (key, value) for key in SECTIONS for value in (None, 5, "text", []) if (key, value) != ("licences", [])
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_document_without_a_section(tmp_path: Path, renders: Path, key: str, value: Any) -> None:
    document = fake_document(renders, 1, 1, 1)
    for damaged in ({k: v for k, v in document.items() if k != key}, document | {key: value}):
        (tmp_path / "dataset.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=r"dataset\.json is damaged") as caught:
            write_report(tmp_path)
        one_line(caught)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("plan", "num_shards", 10**9),
        ("plan", "num_shards", "1"),
        ("plan", "identities_per_shard", 0),
        ("plan", "wanted", -1),
        ("plan", "wanted", True),
        ("recipe", "alpha", "2"),
        ("recipe", "image_format", None),
        ("versions", "d2r-fast", None),
        ("source", "fingerprint", 5),
        ("models", "unet", "x.safetensors"),
        ("models", "unet", {"file": "x"}),
    ],
)
def test_document_with_a_bad_field(
    tmp_path: Path, renders: Path, section: str, field: str, value: Any
) -> None:
    document = fake_document(renders, 1, 1, 1)
    document[section][field] = value
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"dataset\.json is damaged") as caught:
        write_report(tmp_path)
    one_line(caught)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", '"\\ud800"', "[" * 100_000])
def test_document_of_impossible_values(tmp_path: Path, number: str) -> None:
    (tmp_path / "dataset.json").write_text(f'{{"plan": {{}}, "x": {number}}}')
    with pytest.raises(UserError, match="is damaged") as caught:
        write_report(tmp_path)
    one_line(caught)


def test_document_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(UserError, match=r"dataset\.json cannot be read") as caught:
        write_report(tmp_path)
    one_line(caught)


@pytest.mark.parametrize("name", ["00000_stats.json", "00000.tar", "00000.parquet"])
def test_shard_with_a_folder_or_loop_for_a_file_is_not_finished(
    tmp_path: Path, renders: Path, name: str
) -> None:
    document = fake_dataset(tmp_path / "set", renders, names=NAMES)
    for spoil in (lambda path: path.mkdir(), lambda path: path.symlink_to(path.name)):
        path = tmp_path / "set" / name
        path.rmdir() if path.is_dir() else path.unlink()
        spoil(path)
        with pytest.raises(ValueError, match=name):
            read_marker(tmp_path / "set", 0, format="webdataset", dataset=document_digest(document))
        assert summarise(tmp_path / "set").shards == [1, 2]


GOOD_SHARD = {"event": "shard", "time": 20.0, "images": 10, "stage_s": {"vae": 1.0}}


@pytest.mark.parametrize(
    "event",
    [
        5, None, [], "start", {}, {"event": "start"}, {"time": 5.0},
        {"event": "start", "time": 5.0, "source": None, "device": "cpu"},
        {"event": "start", "time": 5.0, "source": "a\0b", "device": "cpu"},
        {"event": [], "time": 5.0}, {"event": "end", "time": float("nan")}, {"event": "end", "time": 1e300},
        {"event": "end", "time": "now"}, {"event": "end", "time": -1e9}, {"event": "end", "time": True},
        GOOD_SHARD | {"images": "10"}, GOOD_SHARD | {"images": 10**400}, GOOD_SHARD | {"stage_s": [1]},
        GOOD_SHARD | {"stage_s": {"vae": None}}, GOOD_SHARD | {"stage_s": {"vae": float("nan")}},
    ],
)  # fmt: skip
def test_damaged_events_are_passed_over(tmp_path: Path, renders: Path, event: Any) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES)
    events = [{"event": "start", "time": 10.0, "source": "/away", "device": "cpu"}, event, GOOD_SHARD]
    (tmp_path / "set" / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    log = summarise(tmp_path / "set").log
    assert (log.num_runs, log.num_images, log.wall_s, log.stage_s) == (1, 10, 10.0, {"vae": 1.0})
    write_report(tmp_path / "set")


def test_log_that_is_a_folder(tmp_path: Path, renders: Path) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES)
    (tmp_path / "set" / "events.jsonl").unlink()
    (tmp_path / "set" / "events.jsonl").mkdir()
    with pytest.raises(RunError, match=r"events\.jsonl cannot be read") as caught:
        write_report(tmp_path / "set")
    one_line(caught)


@pytest.mark.parametrize("line", [b"5", b"{}", b'{"stage": 1}', b"\xff"])
def test_damaged_problem_is_named(tmp_path: Path, renders: Path, line: bytes) -> None:
    fake_dataset(tmp_path / "set", renders, names=NAMES, num_images=8)
    path = tmp_path / "set" / "00001_errors.jsonl"
    path.write_bytes(line.ljust(path.stat().st_size - 1) + b"\n")
    with pytest.raises(RunError, match=r"00001_errors\.jsonl is damaged") as caught:
        write_report(tmp_path / "set")
    one_line(caught)


@pytest.mark.parametrize("name", ["dataset.json", "events.jsonl", "README.md", "00000.tar", "00009.parquet"])
def test_page_does_not_replace_a_file_of_the_dataset(made: Path, name: str) -> None:
    before = (made / "dataset.json").read_bytes()
    with pytest.raises(UserError, match="is a file of the dataset") as caught:
        write_report(made, out=made / name)
    one_line(caught)
    assert (made / "dataset.json").read_bytes() == before


@pytest.mark.parametrize("name", ["file", "file/below", "loop", "loop/below", 300 * "n", "full"])
def test_demo_needs_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").write_text("mine")
    with pytest.raises(UserError) as caught:
        run_demo(tmp_path / name)
    one_line(caught, name)
