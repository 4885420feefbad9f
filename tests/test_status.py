"""`status`: what it says of datasets that are finished, in work, killed, damaged or being written elsewhere."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.folder_lock import _control, take_lock
from d2r_fast.engine.lock_probe import covers, held_ranges
from d2r_fast.engine.marker import WORKERS, ShardFiles, document_digest, dump, read_document
from d2r_fast.engine.status import EXIT_STATUS, Status, as_document, read_status, run_status
from d2r_fast.engine.status_text import render_status, span
from d2r_fast.engine.worker_report import judge, read_reports

from .fakedata import make_dataset, make_document

NOW = 2_000_000_000.0
HERE = os.uname().nodename


def unfinish(folder: Path, *shards: int) -> None:
    """Have the dataset lack some of its shards."""
    (folder / "_SUCCESS").unlink(missing_ok=True)
    for shard in shards:
        (folder / ShardFiles.of(shard).stats).unlink()


def put_worker(folder: Path, name: str, **values: Any) -> Path:
    """A worker's file: at work on another node, 100 images in 50 s, its last word 10 s old."""
    said = {
        "name": name, "host": "node7", "pid": 4711, "device": "cuda:0", "shards": None, "running": [2], "done": 4,
        "failed": 0, "images": 100, "stage_s": {"denoise": 40.5}, "started": NOW - 60, "updated": NOW - 10,
        "state": "running",
    }  # fmt: skip
    (folder / WORKERS).mkdir(exist_ok=True)
    path = folder / WORKERS / f"{name}.json"
    path.write_bytes(dump(said | values))
    os.utime(path, (NOW - 10, NOW - 10))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("made") / "dataset", make_document(num_identities=30))


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    """Ten shards of 3 identities of 4 images, all finished."""
    return shutil.copytree(made, tmp_path / "dataset")


@pytest.fixture
def half(dataset: Path) -> Path:
    """Shards 5 to 9 are not finished."""
    unfinish(dataset, *range(5, 10))
    return dataset


def test_a_finished_dataset(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert run_status(dataset, as_json=False) == 0
    assert before == {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}, "status wrote something"
    rows = read_status(dataset).counts
    assert rows["wanted"] == 120
    assert capsys.readouterr().out == (
        f"{dataset}: generated, finished\n"
        "shards  10 of 10 finished (100 %), 0 in work, 0 failed\n"
        f"images  120 of 120: {rows['written']} written, {rows['rejected']} rejected, 4 failed\n"
    )


def test_a_killed_dataset_says_how_to_go_on(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_status(half, as_json=False) == EXIT_STATUS["stopped"] == 1
    text = capsys.readouterr().out
    assert "shards  5 of 10 finished (50 %)" in text
    assert "nobody is at work: run the same `d2r-fast generate` again to go on" in text


def test_a_dataset_without_its_last_word_is_not_finished(dataset: Path) -> None:
    (dataset / "_SUCCESS").unlink()
    assert read_status(dataset).progress == "stopped"


def test_who_is_at_work_and_how_long_it_will_take(half: Path) -> None:
    put_worker(half, "w0", running=[5, 6])
    put_worker(half, "w1", running=[7], images=50)
    put_worker(half, "w2", state="finished", running=[])
    with locked(half, None):
        status = read_status(half, now_s=NOW)
    assert status.progress == "running"
    assert status.running == (5, 6, 7)
    assert status.images_per_s == pytest.approx(100 / 50 + 50 / 50)
    assert status.left_s == pytest.approx(60 / 3)  # 5 shards of 12 images are left
    assert [worker.state for worker in status.workers] == ["running", "running", "finished"]
    text = render_status(status)
    assert "speed   3 images/s, 20 s left" in text
    head, *rows = text.split("\n\n")[1].splitlines()
    assert " ".join(head.split()) == (
        "worker host device state part in work done failed images images/s last word"
    )
    assert " ".join(rows[0].split()) == "w0 node7 cuda:0 running any 00005 00006 4 0 100 2 10 s ago"
    assert len(rows) == 3


def test_parts_are_done_side_by_side(half: Path) -> None:
    put_worker(half, "a", shards=[0, 8], running=[5])
    put_worker(half, "b", shards=[8, 10], running=[9], images=25)
    with locked(half, range(8)), locked(half, range(8, 10)):
        status = read_status(half, now_s=NOW)
        assert status.held == ((0, 10),)
        assert status.left_s == pytest.approx(max(3 * 12 / 2, 2 * 12 / 0.5))
        put_worker(half, "b", shards=[8, 10], images=0, done=0)
        assert read_status(half, now_s=NOW).left_s is None  # who knows how fast it is
    with locked(half, range(8)):
        status = read_status(half, now_s=NOW)
    assert [worker.state for worker in status.workers] == ["running", "lost"]
    assert "nobody is at work on 2 unfinished shards (first: 00008)" in status.notes


def test_a_worker_whose_lock_is_free_is_lost(half: Path) -> None:
    put_worker(half, "w0")
    status = read_status(half, now_s=NOW)
    assert (status.progress, status.workers[0].state, status.running) == ("stopped", "lost", ())
    assert status.notes[0].startswith("w0 on node7 is gone: ")


def test_a_worker_is_looked_up_where_locks_cannot_be_asked_for(half: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    put_worker(half, "w0", host=HERE, pid=child.pid, started=time.time(), updated=time.time())
    # The second's number is another process's now.
    put_worker(half, "w1", host=HERE, pid=child.pid, started=time.time() - 3600)

    def states() -> list[str]:
        reports, _ = read_reports(half, now_s=time.time())
        return [worker.state for worker in judge(reports, None, num_shards=10)]

    assert states() == ["running", "lost"]
    child.send_signal(signal.SIGKILL)
    for _ in range(1000):
        if Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)
    zombie = states()
    child.communicate()
    assert zombie == states() == ["lost", "lost"]


@pytest.mark.parametrize(
    ("age_s", "values", "state"),
    [
        (200.0, {}, "running"),
        (400.0, {}, "late"),  # its shards took 12.5 s each
        (400.0, {"started": NOW - 3000}, "running"),  # and here 650 s
        (3600.0, {"done": 0, "images": 0}, "running"),  # of its first shard nobody can say
    ],
)
def test_a_silent_worker_is_late_by_its_own_measure(
    half: Path, age_s: float, values: dict[str, Any], state: str
) -> None:
    path = put_worker(half, "w0", **{"started": NOW - age_s - 50, "updated": NOW - age_s} | values)
    os.utime(path, (NOW - age_s, NOW - age_s))
    with locked(half, None):
        (worker,) = read_status(half, now_s=NOW).workers
    assert worker.state == state
    assert worker.age_s == pytest.approx(age_s)
    assert worker.working


@pytest.mark.parametrize("skew_s", [-1800.0, -60.0, 60.0, 1800.0])
def test_clocks_of_nodes_may_differ(half: Path, skew_s: float) -> None:
    plain = put_worker(half, "w0")
    expected = read_status(half, now_s=NOW)
    said = json.loads(plain.read_bytes())
    put_worker(half, "w0", started=said["started"] + skew_s, updated=said["updated"] + skew_s)
    with locked(half, None):
        status = read_status(half, now_s=NOW)
    (worker,) = status.workers
    assert worker.state == "running"
    assert 0 <= worker.age_s <= 10
    assert worker.images_per_s == pytest.approx(expected.workers[0].images_per_s)
    assert any("the clock of node7 is" in note for note in status.notes) == (skew_s > 15)


def test_who_comes_while_status_looks_is_not_lost(half: Path) -> None:
    put_worker(half, "w0")
    before, _ = read_reports(half, now_s=NOW)
    put_worker(half, "w0", started=NOW - 1)  # begun anew
    put_worker(half, "w1")
    after, _ = read_reports(half, now_s=NOW)
    states = {worker.said.name: worker.state for worker in judge(after, [], num_shards=10, before=before)}
    assert states == {"w0": "running", "w1": "running"}
    assert [worker.state for worker in judge(after, [], num_shards=10)] == ["lost", "lost"]


def test_files_that_are_no_reports_are_named(half: Path) -> None:
    put_worker(half, "w0")
    for name, text in {
        "cut": '{"name": "cut"', "list": "[]", "less": '{"name": "less"}', "words": '{"name": 3, "state": "asleep"}',
    }.items():  # fmt: skip
        (half / WORKERS / f"{name}.json").write_text(text)
    (half / WORKERS / ".w1.json.12.tmp").write_text("{")
    put_worker(half, "nan", started="NaN")
    put_worker(half, "pair", shards=[1])
    status = read_status(half, now_s=NOW)
    assert [worker.said.name for worker in status.workers] == ["w0"]
    assert [note.split()[0] for note in status.notes[:6]] == [
        f"workers/{name}.json" for name in ("cut", "less", "list", "nan", "pair", "words")
    ]


def test_json_is_the_same_in_names_and_numbers(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_worker(half, "w0")
    with locked(half, None):
        assert run_status(half, as_json=True) == EXIT_STATUS["running"] == 4
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {
        "folder", "kind", "state", "shards", "images", "images_per_s", "left_s", "workers", "notes",
    }  # fmt: skip
    assert printed["shards"] == {"total": 10, "finished": 5, "running": [], "failed": 0, "held": [[0, 10]]}
    assert printed["images"]["total"] == 120
    fates = [printed["images"][name] for name in ("written", "rejected", "failed")]
    assert printed["images"]["finished"] == sum(fates)
    assert set(printed["workers"][0]) == {
        "name", "host", "pid", "device", "state", "shards", "running", "done", "failed", "images", "images_per_s",
        "stage_s", "started", "updated", "age_s",
    }  # fmt: skip


def test_a_shard_counts_as_it_does_for_a_run_that_goes_on(dataset: Path) -> None:
    whole = ShardFiles.of(3)
    with (dataset / whole.tar).open("ab") as file:
        file.write(b"x")
    (dataset / ShardFiles.of(4).rows).unlink()
    marker = json.loads((dataset / ShardFiles.of(5).stats).read_bytes())
    (dataset / ShardFiles.of(5).stats).write_bytes(dump(marker | {"dataset": "0" * 64}))
    status = read_status(dataset)
    assert set(range(10)) - set(status.finished) == {3, 4, 5}
    assert status.progress == "stopped"


def test_an_imagefolder_s_images_are_taken_at_their_marker_s_word(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "folder", make_document(format="imagefolder"))
    next(folder.rglob("*.jpg")).unlink()
    assert read_status(folder).progress == "finished"
    (folder / ShardFiles.of(0).rows).unlink()
    assert read_status(folder).progress == "stopped"


def test_what_is_no_dataset_is_refused(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(UserError, match="no dataset of d2r-fast"):
        read_status(tmp_path)
    with pytest.raises(UserError, match="no dataset of d2r-fast"):
        read_status(tmp_path / "none")
    document = read_document(dataset)
    for plan in ({"num_shards": "ten", "wanted": 1}, {"num_shards": 3}, {"num_shards": -1, "wanted": 0}):
        (dataset / "dataset.json").write_bytes(dump(document | {"plan": plan}))
        with pytest.raises(UserError, match="damaged"):
            read_status(dataset)


def test_held_ranges_are_those_that_runs_lock(tmp_path: Path) -> None:
    assert held_ranges(tmp_path, 10) == []
    with locked(tmp_path, range(2, 4)), locked(tmp_path, range(7, 9)), locked(tmp_path, range(4, 5)):
        assert held_ranges(tmp_path, 10) == [(2, 5), (7, 9)]
        assert held_ranges(tmp_path, 8) == [(2, 5), (7, 8)]
    assert held_ranges(tmp_path, 10) == []
    with locked(tmp_path, None):
        assert held_ranges(tmp_path, 10) == [(0, 10)]
    assert covers([(2, 5)], (4, 9))
    assert not covers([(2, 5)], (5, 9))


def test_thousands_of_ranges_are_held_at_once(tmp_path: Path) -> None:
    lock = take_lock(tmp_path, range(0, 1))
    for shard in range(2, 3000, 2):
        _control(lock, fcntl.F_OFD_SETLK, range(shard, shard + 1))
    try:
        found = held_ranges(tmp_path, 3000)
    finally:
        os.close(lock)
    assert found == [(shard, shard + 1) for shard in range(0, 3000, 2)]


def test_status_takes_no_lock(half: Path) -> None:
    read_status(half)
    with locked(half, None):
        read_status(half)


@pytest.mark.parametrize(
    ("num_shards", "limit_s"), [(1_000, 0.5), pytest.param(10_000, 5.0, marks=pytest.mark.slow)]
)
def test_ten_thousand_shards_in_seconds(tmp_path: Path, num_shards: int, limit_s: float) -> None:
    plan = {"num_shards": num_shards, "wanted": 1000 * num_shards}
    document = {"schema": 1, "format": "webdataset", "plan": plan}
    (tmp_path / "dataset.json").write_bytes(dump(document))
    digest = document_digest(document)
    for shard in range(num_shards):
        names = ShardFiles.of(shard)
        for name in names.listed("webdataset"):
            os.mknod(tmp_path / name)
        files = {name: {"sha256": "0" * 64, "bytes": 0} for name in names.listed("webdataset")}
        counts = {"wanted": 1000, "written": 990, "rejected": 7, "failed": 3}
        marker = {"schema": 1, "shard": shard, "dataset": digest, **counts, "files": files}
        (tmp_path / names.stats).write_bytes(dump(marker))
    started_s = time.process_time()
    status = read_status(tmp_path)
    assert time.process_time() - started_s < limit_s
    assert (len(status.finished), status.counts["written"]) == (num_shards, 990 * num_shards)


def test_status_while_shards_are_written(tmp_path: Path) -> None:
    """Whatever moment it looks at, what it says adds up, and nothing that was finished is not any more."""
    folder = tmp_path / "dataset"
    make_dataset(folder, make_document(num_identities=3))
    unfinish(folder)
    for path in folder.glob("0*"):
        path.unlink()
    document = make_document(num_identities=18)
    (folder / "dataset.json").write_bytes(dump(document))
    (folder / "README.md").unlink()
    writer = threading.Thread(target=make_dataset, args=(folder, document))
    writer.start()
    seen: list[Status] = []
    while writer.is_alive():
        seen.append(read_status(folder))
    writer.join()
    assert all(status.counts["wanted"] == 12 * len(status.finished) for status in seen)
    assert [len(status.finished) for status in seen] == sorted(len(status.finished) for status in seen)
    assert any(status.progress == "running" for status in seen)
    assert read_status(folder).progress == "finished"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (7500, "2 h 5 min"), (100_000, "1 d 3 h")],
)
def test_spans_are_said_in_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_all_is_said_of_all_alone(half: Path) -> None:
    status = replace(read_status(half), num_shards=20_000, finished=tuple(range(19_999)))
    assert "19,999 of 20,000 finished (99.9 %)" in render_status(status)


def test_a_worker_s_own_clock_gives_its_rate(half: Path) -> None:
    put_worker(half, "w0", started=NOW + 900, updated=NOW + 900)  # has not moved yet
    reports, _ = read_reports(half, now_s=NOW)
    (worker,) = judge(reports, None, num_shards=10)
    assert worker.images_per_s is None
    assert worker.state == "running"


def test_the_command_needs_no_networks(dataset: Path) -> None:
    code = (
        "import sys; from d2r_fast.engine.cli import main\n"
        "for folder in sys.argv[1:]:\n"
        "    sys.argv = ['d2r-fast', 'status', folder, '--json']\n"
        "    try: main()\n"
        "    except SystemExit as end: print(end.code, sorted({'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    both = [sys.executable, "-c", code, dataset, dataset.parent]
    done = subprocess.run(both, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0 []", "2 []"]
    assert done.stderr.count("\n") == 1


class locked:
    """Another run's lock on shards of a folder; None for all."""

    def __init__(self, folder: Path, shards: range | None) -> None:
        self._take: Callable[[], int] = lambda: take_lock(folder, shards)

    def __enter__(self) -> None:
        self._lock = self._take()

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)


def test_a_document_is_json(dataset: Path) -> None:
    assert json.loads(dump(as_document(read_status(dataset))))["state"] == "finished"
