"""Shards made by several processes: the same bytes as by one, whoever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from d2r_fast.engine.dataset import Dataset, logs, read_events
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.executors import progress
from d2r_fast.engine.executors.hand_out import HandOut
from d2r_fast.engine.executors.listing import check_listed, digest_shards
from d2r_fast.engine.executors.maker import Task, members_of
from d2r_fast.engine.executors.place import Machine, find_place
from d2r_fast.engine.run_log import read_log
from d2r_fast.engine.source import open_source
from d2r_fast.engine.sources import folder
from d2r_fast.engine.verify import verify

from .fakedata import open_dataset, tree, write
from .fakework import NUM_SHARDS, document_of, fake_task, make, open_failing, open_killer

pytestmark = pytest.mark.usefixtures("findable")


@pytest.fixture(scope="module")
def findable() -> Iterator[None]:
    """The workers, which are interpreters of their own, find this package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        yield


@pytest.fixture(scope="module")
def calm(findable: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a single undisturbed process makes."""
    out = tmp_path_factory.mktemp("calm") / "out"
    make(out, document_of(), num_workers=1)
    return tree(out)


def start(
    out: Path, *, seconds: float, workers: int = 1, shards: str = "", deaths: str = ""
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.fakework", str(out), str(seconds), str(workers), shards, deaths]
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        command, stderr=subprocess.DEVNULL, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    while not path.exists():
        assert process.poll() is None, "it ended before that"
        time.sleep(0.02)


def workers_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((out / "workers").glob("*.json"))]


def test_shards_are_handed_out_in_order_and_again_behind_the_others() -> None:
    hand_out = HandOut(range(5))
    hand_out.arrive("a")
    hand_out.arrive("b")
    assert [hand_out.take(name) for name in "abab"] == [0, 1, 2, 3]
    assert hand_out.take("a") == "wait"  # a worker that has none is to get the last
    hand_out.finish("b", 1)
    hand_out.finish("b", 3)
    assert hand_out.lose("a") == [0, 2]
    assert [hand_out.take("b") for _ in range(3)] == [4, 0, 2]
    assert hand_out.take("b") == "wait"
    for shard in (4, 0, 2):
        hand_out.finish("b", shard)
    assert hand_out.take("b") == "end"
    assert hand_out.done


def test_a_worker_of_the_same_name_gives_back_what_the_one_before_it_had() -> None:
    hand_out = HandOut([7, 8, 9])
    hand_out.arrive("a")
    assert [hand_out.take("a"), hand_out.take("a")] == [7, 8]
    assert hand_out.arrive("a") == [7, 8]
    assert [hand_out.take("a") for _ in range(3)] == [9, 7, 8]


class Counts:
    """In the meter's place: all that it was told."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.done, self.note = 0, ""

    def advance(self, count: int, note: str = "") -> None:
        self.done, self.note = self.done + count, note


def test_images_that_a_lost_worker_told_of_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "Meter", Counts)
    document = document_of()
    with Dataset.open(tmp_path / "out", document) as dataset:
        said = progress.Progress(fake_task(dataset.folder, document, crew=2), dataset, num_workers=2)
        said.rows("w0", {"written": 3, "rejected": 1})
        said.rows("w1", {"written": 4})
        said.shard("w0", 0, {"written": 2, "rejected": 1, "failed": 0}, {})
        said.lost("w0", "is gone", [1], left=1)
        assert (said._meter.done, said._meter.note) == (7, "1 rejected, 6 written")
        said.lost("w0", "is gone again", [], left=1)
        assert said._meter.done == 7


def test_a_worker_lists_what_it_makes_alone_and_notices_another_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    for identity in range(6):
        (source / str(identity)).mkdir(parents=True)
        (source / str(identity) / "0.png").touch()
    digests = digest_shards(open_source(source).identities, 2)
    listed, scan = [], folder.scan_identity
    monkeypatch.setattr(folder, "scan_identity", lambda path: (listed.append(Path(path).name), scan(path))[1])
    found = list(open_source(source).identities)
    check_listed(1, members_of(found, 1, 2), digests)
    assert listed == ["0", "2", "3"]  # the first tells that there are images at all
    (source / "4" / "1.png").touch()
    check_listed(1, members_of(found, 1, 2), digests)
    with pytest.raises(UserError, match=r"finds other images of identities 4 to 5 than the run began with"):
        check_listed(2, members_of(found, 2, 2), digests)


def test_ranges_of_one_dataset_are_made_at_once(tmp_path: Path, calm: dict[str, str]) -> None:
    document, out = document_of(), tmp_path / "out"
    first = Dataset.open(out, document, shards=range(4))
    with Dataset.open(out, document, shards=range(4, 6)) as second:
        for dataset in (first, second):
            dataset.begin()
            for shard in dataset.unfinished:
                write(out, document, shard)
            dataset.log("shard", shard=0)
        assert second.finish()["wanted"] == 6 * 4  # the first has done its part, and has not looked yet
        assert second.complete
    with first:
        assert first.finish()["wanted"] == 6 * 4
    assert tree(out) == calm
    assert logs(out) == ["events-00000-00004.jsonl", "events-00004-00006.jsonl"]
    assert len(list(read_events(out, "events-00004-00006.jsonl"))) == 1
    assert verify(out).problems == []


def test_a_range_that_is_done_before_the_others_leaves_the_end_to_them(tmp_path: Path) -> None:
    document, out = document_of(), tmp_path / "out"
    counts = make(out, document, num_workers=1, shards=range(1, 3))
    assert counts["wanted"] == 2 * 4
    assert not (out / "_SUCCESS").exists()
    assert [(worker["shards"], worker["state"], worker["done"]) for worker in workers_of(out)] == [
        ([1, 3], "finished", 2)
    ]
    with open_dataset(out, document) as dataset:
        assert dataset.unfinished == [0, 3, 4, 5]
        assert workers_of(out) == []


@pytest.mark.parametrize("theirs", [range(2), range(1, 2), range(1, 6), None])
def test_ranges_that_overlap_are_refused_by_name(tmp_path: Path, theirs: range | None) -> None:
    document, out = document_of(), tmp_path / "out"
    with (
        Dataset.open(out, document, shards=range(1, 3)),
        Dataset.open(out, document, shards=range(4, 6)),
        pytest.raises(RunError, match=rf"in use by process {os.getpid()} on \S+, shards 1:3: wait for it"),
    ):
        Dataset.open(out, document, shards=theirs)
    Dataset.open(out, document, shards=theirs).close()


def test_a_whole_run_keeps_ranges_out(tmp_path: Path) -> None:
    with (
        open_dataset(tmp_path / "out", document_of()),
        pytest.raises(
            RunError, match=rf"shards 4:6 of out \S+ are in use by process {os.getpid()} on \S+: wait"
        ),
    ):
        Dataset.open(tmp_path / "out", document_of(), shards=range(4, 6))


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    document, out = document_of(), tmp_path / "out"
    open_dataset(out, document).close()
    theirs = [out / ".00001.tar.7.tmp", out / ".00001_stats.json.7.tmp", out / ".00001.7.tmp"]
    ours = [out / ".00004.tar.7.tmp", out / ".README.md.7.tmp"]
    for path in (*theirs, *ours):
        path.touch()
    Dataset.open(out, document, shards=range(4, 6)).close()
    assert all(path.exists() for path in theirs)
    assert not any(path.exists() for path in ours)


def test_time_that_runs_spent_at_once_counts_once(tmp_path: Path) -> None:
    spans = {"events.jsonl": [(0, 10), (100, 110)], "events-00000-00002.jsonl": [(5, 20), (106, 108)]}
    for name, runs in spans.items():
        lines = []
        for begin, end in runs:
            lines.append({"event": "start", "time": begin, "source": f"/{name}", "device": "cpu"})
            lines.append({"event": "shard", "time": end, "stage_s": {"denoise": 1.5}, "images": 7})
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = read_log(tmp_path)
    assert (log.num_runs, log.num_images, log.stage_s) == (4, 28, {"denoise": 6.0})
    assert (log.started, log.ended, log.wall_s) == (0, 110, 30)


def test_two_workers_make_the_same_bytes(tmp_path: Path, calm: dict[str, str]) -> None:
    make(tmp_path / "out", document_of(), num_workers=2, seconds=0.2)
    assert tree(tmp_path / "out") == calm
    done = [event["worker"] for event in read_events(tmp_path / "out") if event["event"] == "shard"]
    assert len(done) == NUM_SHARDS
    assert set(done) == {"w0", "w1"}


def test_what_a_killed_worker_had_is_made_by_the_other(
    tmp_path: Path, calm: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "out", document_of(), num_workers=2, seconds=0.2, deaths=[1])
    assert tree(tmp_path / "out") == calm
    assert verify(tmp_path / "out").problems == []
    lost = [event for event in read_events(tmp_path / "out") if event["event"] == "lost"]
    assert len(lost) == 1
    assert 1 in lost[0]["shards"]
    assert f"worker {lost[0]['worker']} (process " in capsys.readouterr().err


def test_when_all_workers_die_the_line_names_the_last_its_signal_and_its_shard(
    tmp_path: Path, calm: dict[str, str]
) -> None:
    with pytest.raises(
        RunError, match=r"worker w\d \(process \d+ on cpu\) was ended by SIGKILL with shards? .*0000[45]"
    ):
        make(tmp_path / "out", document_of(), num_workers=2, deaths=[4, 5])
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    make(tmp_path / "out", document_of(), num_workers=1)
    assert tree(tmp_path / "out") == calm


def test_workers_that_cannot_begin_leave_nothing(tmp_path: Path) -> None:
    document, out = document_of(), tmp_path / "out"
    for opener, message in (
        (open_failing, "the fake network cannot be opened"),
        (open_killer, r"ended by SIGSEGV before it had a shard, and no other is left"),
    ):
        task = Task("make", opener, lambda shard: 1, total=NUM_SHARDS)
        with Dataset.open(out, document) as dataset, pytest.raises(RunError, match=message):
            Machine(("cpu", "cpu")).run(task, dataset)
        assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_signal_stops_the_workers_too(tmp_path: Path, calm: dict[str, str]) -> None:
    process = start(tmp_path / "out", seconds=2.0, workers=2)
    for number in range(2):
        wait_for(tmp_path / "out" / "workers" / f"w{number}.json", process)
    (one, other) = workers_of(tmp_path / "out")
    assert {one["state"], other["state"]} == {"running"}
    process.send_signal(signal.SIGTERM)
    started_s = time.monotonic()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert time.monotonic() - started_s < 10
    assert [worker["state"] for worker in workers_of(tmp_path / "out")] == ["stopped", "stopped"]
    assert not list((tmp_path / "out").glob(".*.tmp"))
    for pid in (one["pid"], other["pid"]):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    make(tmp_path / "out", document_of(), num_workers=1)
    assert tree(tmp_path / "out") == calm


def test_workers_end_with_the_process_that_started_them_and_hold_the_folder_till_then(
    tmp_path: Path, calm: dict[str, str]
) -> None:
    process = start(tmp_path / "out", seconds=2.0, workers=2)
    wait_for(tmp_path / "out" / "workers" / "w0.json", process)
    pids = [worker["pid"] for worker in workers_of(tmp_path / "out")]
    os.kill(pids[0], signal.SIGSTOP)
    process.kill()
    process.wait()
    with pytest.raises(RunError, match=f"in use by process {process.pid} on"):
        Dataset.open(tmp_path / "out", document_of())
    os.kill(pids[0], signal.SIGCONT)
    for _ in wait_until_free(tmp_path / "out"):
        time.sleep(0.02)
    make(tmp_path / "out", document_of(), num_workers=1)
    assert tree(tmp_path / "out") == calm


def wait_until_free(out: Path) -> Iterator[None]:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            Dataset.open(out, document_of()).close()
        except RunError:
            yield
        else:
            return
    raise AssertionError("somebody still has the folder")


def test_independent_processes_make_a_dataset_together(tmp_path: Path, calm: dict[str, str]) -> None:
    document, out = document_of(), tmp_path / "out"
    other = start(out, seconds=0.3, shards="0:3")
    wait_for(out / "dataset.json", other)
    make(out, document, num_workers=1, shards=range(3, 6), seconds=0.3)
    assert other.wait(timeout=60) == 0
    assert (out / "_SUCCESS").exists()
    assert tree(out) == calm
    assert not (out / "workers").exists()


def test_actors_of_a_ray_cluster_make_the_same_bytes(tmp_path: Path, calm: dict[str, str]) -> None:
    ray = pytest.importorskip("ray", reason="Ray is an extra")
    settings = SimpleNamespace(executor="ray", workers=2, device="auto", ray_address="auto")
    root = Path(__file__).parents[1]
    ray.init(
        address="local", num_cpus=2, num_gpus=0, include_dashboard=False, logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}},
    )  # fmt: skip
    try:
        with find_place(settings) as place, Dataset.open(tmp_path / "out", document_of()) as dataset:
            assert (place.device, place.num_workers) == ("cpu", 2)
            place.run(fake_task(dataset.folder, document_of(), crew=2, seconds=0.2, deaths=[1]), dataset)
            dataset.finish()
    finally:
        ray.shutdown()
    assert tree(tmp_path / "out") == calm
    events = list(read_events(tmp_path / "out"))
    assert [event for event in events if event["event"] == "lost"]
    assert {event["worker"] for event in events if event["event"] == "shard"} <= {"w0", "w1"}


def test_no_cluster_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is an extra")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = SimpleNamespace(executor="ray", workers=2, device="auto", ray_address="auto")
    refused = pytest.raises(UserError, match=r"no Ray cluster at 'auto' .*start one with `ray start --head`")
    with refused, find_place(settings):
        pass
