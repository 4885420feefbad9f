"""The dataset's folder: who may have it, what counts as finished, how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from d2r_fast.engine.card import render_card
from d2r_fast.engine.dataset import differences, read_events
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.marker import ShardFiles, document_digest, dump, read_document

from .fakedata import make_dataset, make_document, names_in, open_dataset, tree, write


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset of `make_document()`, to be copied."""
    return make_dataset(tmp_path_factory.mktemp("whole") / "out", make_document())


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What would show that a file was touched."""
    found = {p: p.lstat() for p in folder.rglob("*")}
    return {str(p): (s.st_ino, s.st_size, s.st_mtime_ns) for p, s in found.items()}


def test_new_folder_gets_its_document(tmp_path: Path) -> None:
    document = make_document()
    with open_dataset(tmp_path / "deep" / "out", document) as dataset:
        assert dataset.finished == frozenset()
        assert dataset.unfinished == [0, 1, 2]
        assert dataset.num_shards == 3
        assert read_document(dataset.folder) == document
        assert (tmp_path / "deep" / "out" / "dataset.json").read_bytes() == dump(document)


def test_document_is_compared_as_json(tmp_path: Path) -> None:
    document = make_document()
    document["recipe"]["pair"] = (1, 2)
    for _ in range(2):
        open_dataset(tmp_path / "out", document).close()
    text = json.dumps(document, sort_keys=True)  # another order of keys, another spacing: the same document
    (tmp_path / "out" / "dataset.json").write_text(text)
    with open_dataset(tmp_path / "out", document):
        assert (tmp_path / "out" / "dataset.json").read_text() == text


def test_a_rewritten_document_keeps_its_shards(tmp_path: Path) -> None:
    document = make_document()
    make_dataset(tmp_path / "out", document)
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(document, sort_keys=True))
    with open_dataset(tmp_path / "out", document) as dataset:
        assert dataset.unfinished == []


def test_other_document_is_refused_with_keys_and_values(tmp_path: Path) -> None:
    make_dataset(tmp_path / "out", make_document())
    before = state(tmp_path)
    other = make_document(seed=1)
    other["recipe"]["steps"] = 4
    other["recipe"]["new"] = None
    del other["versions"]["d2r-fast"]
    other["recipe"]["alpha"] = 2
    with pytest.raises(UserError) as error:
        open_dataset(tmp_path / "out", other)
    text = str(error.value)
    assert "\n" not in text
    for part in (
        "recipe.seed is 0, given 1", "recipe.steps is 25, given 4", "recipe.new is absent, given null",
        'versions.d2r-fast is "0.1.0", given absent', "recipe.alpha is 2.0, given 2",
    ):  # fmt: skip
        assert part in text
    assert state(tmp_path) == before


def test_long_differences_are_cut(tmp_path: Path) -> None:
    document = make_document()
    document["recipe"] |= {f"k{i}": i for i in range(20)}
    open_dataset(tmp_path / "out", document).close()
    other = make_document()
    other["recipe"] |= {f"k{i}": "x" * 1000 for i in range(20)}
    with pytest.raises(UserError, match=r"k7 is 7, .*; and 12 more") as error:
        open_dataset(tmp_path / "out", other)
    assert "k8" not in str(error.value)
    assert len(str(error.value)) < 1200


def test_differences_by_value() -> None:
    assert differences({"a": {"b": 1, "c": [1, 2]}}, {"a": {"b": 1, "c": [1, 2]}}) == []
    assert differences({"a": {"b": 1}}, {"a": {}}) == ["a.b is 1, given absent", "a is absent, given {}"]
    assert differences({"x": 1}, {"x": True}) == ["x is 1, given true"]
    assert differences({"x": [1, 2]}, {"x": [2, 1]}) == ["x is [1, 2], given [2, 1]"]


@pytest.mark.parametrize(
    "name", ["photo.jpg", "7", ".git", "00000.tar", "README.md", "_SUCCESS", "events.jsonl"]
)
def test_foreign_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    before = state(tmp_path)
    with pytest.raises(UserError, match=f"holds {name} and no dataset.json") as error:
        open_dataset(tmp_path / "out", make_document())
    assert "give an empty folder" in str(error.value)
    assert state(tmp_path) == before


def test_barely_started_folder_is_ours(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in (".lock", ".dataset.json.123.tmp"):
        (tmp_path / "out" / name).write_text("half a docu")
    with open_dataset(tmp_path / "out", make_document()):
        assert names_in(tmp_path / "out") == [".lock", "dataset.json"]


@pytest.mark.parametrize("given", ["file", "file/below"])
def test_out_must_be_a_folder(tmp_path: Path, given: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file or lies in one: give a folder"):
        open_dataset(tmp_path / given, make_document())


def test_write_protected_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"Read-only file system\): give a folder you may write to"):
        open_dataset(tmp_path / "out", make_document())


def test_damaged_document_is_refused(tmp_path: Path) -> None:
    open_dataset(tmp_path / "out", make_document()).close()
    for text in (
        '{"schema": 1, "pl',
        "",
        "[1]",
        "\udc80".encode(errors="surrogateescape").decode("latin1"),
        "{}",
    ):
        (tmp_path / "out" / "dataset.json").write_text(text)
        with pytest.raises(UserError, match="is damaged"):
            open_dataset(tmp_path / "out", make_document())


def test_second_process_stops_at_once(tmp_path: Path) -> None:
    with open_dataset(tmp_path / "out", make_document()) as dataset:
        write(dataset.folder, dataset.document, 0)
        before = state(tmp_path)
        start_s = time.perf_counter()
        with pytest.raises(RunError, match=f"is in use by process {os.getpid()} on ") as error:
            open_dataset(tmp_path / "out", make_document())
        assert time.perf_counter() - start_s < 1
        assert "\n" not in str(error.value)
        assert state(tmp_path) == before
    open_dataset(tmp_path / "out", make_document()).close()


def test_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    holder = (
        "import json, sys, time; from d2r_fast.engine.dataset import Dataset\n"
        "dataset = Dataset.open(sys.argv[1], json.loads(sys.argv[2]))\n"
        "print('open', flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", holder, tmp_path / "out", json.dumps(make_document())]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(RunError, match=f"is in use by process {process.pid} "):
            open_dataset(tmp_path / "out", make_document())
        process.send_signal(signal.SIGKILL)
        process.wait()
        open_dataset(tmp_path / "out", make_document()).close()


def test_refused_folder_is_unlocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RunError("no")

    with monkeypatch.context() as patch:
        patch.setattr("d2r_fast.engine.dataset.remove_stale", fail)
        with pytest.raises(RunError, match="no"):
            open_dataset(tmp_path / "out", make_document())
    open_dataset(tmp_path / "out", make_document()).close()


def edit_marker(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "00001_stats.json"
        path.write_bytes(dump(json.loads(path.read_bytes()) | changes))

    return edit


def empty(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [
        empty("00001_stats.json"),
        lambda folder: (folder / "00001_stats.json").write_bytes(
            (folder / "00001_stats.json").read_bytes()[:-40]
        ),
        lambda folder: (folder / "00001_stats.json").write_text("[]"),
        lambda folder: (folder / "00001_stats.json").write_text("null"),
        lambda folder: (folder / "00001_stats.json").write_bytes((folder / "00000_stats.json").read_bytes()),
        *(lambda folder, name=name: (folder / name).unlink() for name in ShardFiles.of(1).all("webdataset")),
        *(empty(name) for name in ShardFiles.of(1).listed("webdataset") if "errors" not in name),
        lambda folder: os.truncate(folder / "00001.tar", (folder / "00001.tar").stat().st_size + 1),
        edit_marker(schema=2),
        edit_marker(shard=2),
        edit_marker(dataset="0" * 64),
        edit_marker(written=13),
        edit_marker(wanted=None),
        edit_marker(files={}),
        edit_marker(files={"00001.tar": 7}),
        edit_marker(extra=1),
    ],
)
def test_damaged_shard_is_made_again(tmp_path: Path, whole: Path, damage: Callable[[Path], None]) -> None:
    document = make_document()
    shutil.copytree(whole, tmp_path / "out")
    damage(tmp_path / "out")
    with open_dataset(tmp_path / "out", document) as dataset:
        assert dataset.unfinished == [1]
        assert not (tmp_path / "out" / "_SUCCESS").exists()
        with pytest.raises(RunError, match=r"lacks 1 of 3 shards \(first: 00001\)"):
            dataset.finish()
    assert tree(make_dataset(tmp_path / "out", document)) == tree(whole)


def test_imagefolder_resume_looks_at_the_images(tmp_path: Path) -> None:
    document = make_document(format="imagefolder")
    whole = tree(make_dataset(tmp_path / "out", document))
    next((tmp_path / "out").glob("*/2.jpg")).write_bytes(b"")
    with open_dataset(tmp_path / "out", document) as dataset:
        assert len(dataset.unfinished) == 1
    assert tree(make_dataset(tmp_path / "out", document)) == whole


def test_shard_of_another_run_is_not_ours(tmp_path: Path) -> None:
    """Same plan, same names, same sizes; another seed."""
    document = make_document(image_format="png")
    make_dataset(tmp_path / "ours", document)
    make_dataset(tmp_path / "theirs", make_document(image_format="png", seed=1))
    for name in ShardFiles.of(2).all("webdataset"):
        (tmp_path / "theirs" / name).replace(tmp_path / "ours" / name)
    with open_dataset(tmp_path / "ours", document) as dataset:
        assert dataset.unfinished == [2]


def test_finish_is_last_and_changes_nothing_twice(tmp_path: Path) -> None:
    document = make_document()
    folder = make_dataset(tmp_path / "out", document)
    (folder / "README.md").write_text("edited by a person")
    before = state(folder)
    with open_dataset(folder, document) as dataset:
        assert dataset.finish() == {"wanted": 28, "written": 20, "rejected": 4, "failed": 4}
    after = state(folder)
    assert {name for name in after if after[name] != before.get(name)} <= {str(folder / ".lock")}
    assert before.keys() == after.keys()


def test_success_is_written_after_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda path, target: seen.append(target.name) or replace(path, target))
    make_dataset(tmp_path / "out", make_document())
    assert seen[0] == "dataset.json"
    assert seen[-2:] == ["README.md", "_SUCCESS"]


def test_events_are_appended(tmp_path: Path) -> None:
    with open_dataset(tmp_path / "out", make_document()) as dataset:
        assert list(read_events(tmp_path / "out")) == []
        dataset.log("start", device="cpu")
        dataset.log("shard", shard=3, stage_s={"denoise": 1.5}, images=7)
    events = list(read_events(tmp_path / "out"))
    assert [event["event"] for event in events] == ["start", "shard"]
    assert events[1] | {"time": 0} == {
        "event": "shard",
        "time": 0,
        "shard": 3,
        "stage_s": {"denoise": 1.5},
        "images": 7,
    }
    assert abs(events[0]["time"] - time.time()) < 60


def test_torn_event_breaks_no_reader_and_no_writer(tmp_path: Path) -> None:
    document = make_document()
    with open_dataset(tmp_path / "out", document) as dataset:
        dataset.log("start")
    with (tmp_path / "out" / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "shard", "ti')
    assert [event["event"] for event in read_events(tmp_path / "out")] == ["start"]
    with open_dataset(tmp_path / "out", document) as dataset:
        dataset.log("end")
    assert [event["event"] for event in read_events(tmp_path / "out")] == ["start", "end"]
    assert len((tmp_path / "out" / "events.jsonl").read_bytes().splitlines()) == 2


def test_no_log_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path)) == []


@pytest.mark.parametrize("format", ["webdataset", "imagefolder"])
def test_card_is_a_function_of_document_and_counts(format: str) -> None:
    document = make_document(format=format, num_identities=20_000, images=20, per_shard=50)
    document["recipe"]["note"] = "a | b"
    totals = {"wanted": 400_000, "written": 399_355, "rejected": 600, "failed": 45}
    card = render_card(document, totals)
    assert card == render_card(json.loads(json.dumps(document)), dict(totals))
    _, head, body = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["size_categories"] == ["100K<n<1M"]
    pattern = {"webdataset": "*.tar", "imagefolder": "*/*.jpg"}[format]
    assert metadata["configs"][0]["data_files"] == [{"split": "train", "path": pattern}]
    assert "| written | 399,355 |" in body
    assert "| failed (could not be drawn) | 45 |" in body
    assert "| arc2face | arc2face/model.safetensors | MIT | `abab" in body
    assert r"| note | a \| b |" in body
    assert ('"{00000..00399}.tar"' in body) == (format == "webdataset")


def test_document_that_the_card_cannot_show_is_found_at_the_start(tmp_path: Path) -> None:
    document = make_document()
    del document["models"]["arc2face"]["sha256"]
    with pytest.raises(jinja2.UndefinedError, match="sha256"):
        open_dataset(tmp_path / "out", document)


def test_digest_is_of_the_content() -> None:
    document = make_document()
    assert document_digest(document) == document_digest(dict(reversed(document.items())))
    assert document_digest(document) != document_digest(make_document(seed=1))
    assert document_digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@pytest.mark.slow
def test_resume_of_ten_thousand_shards(tmp_path: Path) -> None:
    """Under 5 s, reading markers and asking for sizes alone."""
    document = make_document(num_identities=10_000, images=1, per_shard=1)
    open_dataset(tmp_path / "out", document).close()
    digest = document_digest(document)
    counts = {"wanted": 1, "written": 1, "rejected": 0, "failed": 0}
    for shard in range(10_000):
        names = ShardFiles.of(shard)
        for name in names.listed("webdataset"):
            (tmp_path / "out" / name).write_bytes(b"12345")
        files = {name: {"sha256": "0" * 64, "bytes": 5} for name in names.listed("webdataset")}
        marker = {"schema": 1, "shard": shard, "dataset": digest, **counts, "files": files}
        (tmp_path / "out" / names.stats).write_bytes(dump(marker))
    start_s = time.perf_counter()
    with open_dataset(tmp_path / "out", document) as dataset:
        took_s = time.perf_counter() - start_s
        assert dataset.unfinished == []
    print(f"resume scan of 10,000 shards: {took_s:.2f} s")
    assert took_s < 5
