"""The drills: that they see what is wrong, and say so. Their big versions are `d2r-fast drill`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from d2r_fast.bench.drill import faults, soak, spoil, table
from d2r_fast.bench.drill.child import Child, Ended
from d2r_fast.bench.drill.config import DrillConfig
from d2r_fast.bench.drill.counts import account
from d2r_fast.bench.drill.damage import _is_found
from d2r_fast.bench.drill.inputs import TRANSLATE, spoil_some
from d2r_fast.bench.drill.kills import Witness
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.run import _section
from d2r_fast.bench.drill.soak import Run, Turn, ratio_of, shards_in, take_turns, tenths
from d2r_fast.bench.drill.yard import picture, state, temporaries, tree
from d2r_fast.engine.decode import DecodeError, decode
from d2r_fast.engine.errors import UserError

from .fakedata import make_dataset, make_document

RNG = np.random.Generator(np.random.Philox(key=3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A webdataset of three shards, 28 images, some of them rejected, four failed."""
    return make_dataset(tmp_path_factory.mktemp("drill") / "whole", make_document())


def test_a_broken_engine_is_found(tmp_path: Path) -> None:
    script = Path(__file__).with_name("drillbreaker.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "files seen unfinished": False, "no lock": False, "any resume": False, "a falling rate": False, "nothing": True,
    }  # fmt: skip


@pytest.mark.slow
def test_the_quick_drill_is_met(tmp_path: Path) -> None:
    main = "from d2r_fast.engine.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", main, "drill", "--quick", "--folder", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert not list(tmp_path.iterdir())


def test_a_witness_sees_what_comes_too_early_and_what_is_written_again(tmp_path: Path, whole: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    witness = Witness(tree(whole))
    witness.look(copy)
    assert (witness.early, witness.markers, witness.rewritten, witness.num_finished) == (
        set(),
        set(),
        set(),
        3,
    )
    path = copy / "00001.parquet"
    path.write_bytes(path.read_bytes())
    witness.look(copy)
    assert witness.rewritten == {"00001.parquet"}
    os.truncate(copy / "00000.tar", 100)
    other = Witness(tree(whole))
    other.look(copy)
    assert (other.early, other.markers) == ({"00000.tar"}, {"00000_stats.json"})


def test_what_lies_about_is_told_apart(tmp_path: Path, whole: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / ".00001.tar.4711.tmp").write_bytes(b"")
    (copy / "workers").mkdir()
    (copy / "workers" / "w0.json").write_bytes(b"{}")
    (copy / "events-00000-00001.jsonl").write_bytes(b"")
    assert temporaries(copy) == [".00001.tar.4711.tmp"]
    assert set(tree(copy)) - set(tree(whole)) == {".00001.tar.4711.tmp"}


def test_accounts_add_up_or_not(tmp_path: Path, whole: Path) -> None:
    assert account(whole, wanted=28) == []
    assert account(whole, wanted=27) == ["27 were asked for, markers have 28 and tables 28"]
    copy = shutil.copytree(whole, tmp_path / "copy")
    marker = json.loads((copy / "00000_stats.json").read_text())
    marker |= {"written": marker["written"] - 1, "rejected": marker["rejected"] + 1}
    (copy / "00000_stats.json").write_text(json.dumps(marker))
    faults.deleted_member(copy, RNG)
    found = account(copy, wanted=28)
    assert "00000_stats.json counts other images than its table" in found
    assert any("lacks a member" in line or "other images" in line for line in found[1:])


@pytest.mark.parametrize(
    "fault", [*faults.BOTH, *faults.TARS, *faults.FOLDERS], ids=lambda fault: fault.__name__
)
def test_every_fault_changes_something(tmp_path: Path, fault: faults.Fault) -> None:
    made = make_document(
        format="imagefolder" if fault in faults.FOLDERS else "webdataset",
        image_format="png",
        per_shard=2,
        num_identities=6,
    )
    folder = make_dataset(tmp_path / "out", made)
    before = state(folder), tree(folder)
    fault(folder, np.random.Generator(np.random.Philox(key=1)))
    assert (state(folder), tree(folder)) != before
    assert tree(folder) != before[1]


def test_a_fault_is_found_where_its_place_is_named() -> None:
    assert _is_found(Ended(1, "00002.tar does not have the SHA-256", 0.0), "00002.tar")
    assert not _is_found(Ended(1, "00001.tar does not have the SHA-256", 0.0), "00002.tar")
    assert not _is_found(Ended(0, "00002.tar", 0.0), "00002.tar")


@pytest.mark.parametrize("kind", spoil.KINDS)
def test_spoilt_images_are_what_they_are_called(kind: str) -> None:
    deed, _ = spoil.KINDS[kind]
    for number in range(20):
        data = deed(picture(np.random.Generator(np.random.Philox(key=number)), 16), RNG)
        if TRANSLATE.get(kind) == "decode":
            with pytest.raises(DecodeError):
                decode(data, min_side=1)
        else:
            assert decode(data, min_side=1).size > 0


def test_a_hundredth_is_spoilt_in_each_way(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (16, 16), (number, 0, 0)) for number in range(200)]
    spoilt = spoil_some(tmp_path, pictures, np.random.Generator(np.random.Philox(key=0)))
    kinds = list(spoilt.kinds.values())
    assert {kind: kinds.count(kind) for kind in spoil.KINDS} == dict.fromkeys(spoil.KINDS, 2)
    names = {(path.parent.name, path.stem) for path in spoilt.good.glob("*/*")}
    assert names == {(path.parent.name, path.stem) for path in spoilt.bad.glob("*/*")}
    good = {key: (spoilt.good / key[0] / f"{key[1]}.png").stat().st_ino for key in names}
    bad = {(path.parent.name, path.stem): path.stat().st_ino for path in spoilt.bad.glob("*/*")}
    assert {key for key in names if good[key] != bad[key]} == set(spoilt.kinds)


def test_tenths_of_a_long_run() -> None:
    first, *others = tenths(list(range(400)))
    assert (first, len(others), others[-1]) == (list(range(40)), 9, list(range(360, 400)))
    assert [len(tenth) for tenth in tenths(range(25))] == [2, 3] * 5


def test_shards_in_a_turn() -> None:
    assert [shards_in([1.0, 2.0, 2.5, 4.0], span) for span in ((0, 0.5), (1.5, 3), (0, 9))] == [0, 2, 4]


@pytest.mark.parametrize(("slows", "met"), [("the machine", True), ("the run", False)])
def test_a_slower_machine_is_no_slower_run(slows: str, met: bool) -> None:
    """Both fall by a tenth in the end; the short runs take longer only where it is the machine."""
    speeds = np.linspace(1, 0.9, 400)
    shorts = 0.5 / speeds if slows == "the machine" else np.full(400, 0.5)
    turns = [Turn((0.0, 4.0), 2**20, float(short)) for short in shorts]
    counts = RNG.poisson(100 * speeds).tolist()
    judged = soak._judge_rate(turns, counts, 1600)
    assert judged.met is met, judged


def test_the_error_of_a_ratio_is_how_far_it_goes_astray() -> None:
    """Machine time comes and goes for both of a pair alike; what is left to chance is told."""
    found, told = [], []
    for _ in range(300):
        speeds = RNG.uniform(10, 40, 180)
        ratio, error = ratio_of(RNG.poisson(0.9 * speeds).tolist(), RNG.poisson(speeds).tolist())
        found.append(ratio)
        told.append(error)
    assert np.mean(found) == pytest.approx(0.9, abs=0.005)
    assert np.mean(told) == pytest.approx(np.std(found), rel=0.15)


def test_a_soak_is_long_or_none() -> None:
    assert DrillConfig(soak_s=0).soak_s == 0
    with pytest.raises(ValueError, match="give 60 or more, or 0"):
        DrillConfig(soak_s=5)


BEAT = """
import sys, time
with open(sys.argv[1], "w", buffering=1) as file:
    while True:
        print(time.time(), file=file)
        time.sleep(0.01)
"""


def test_the_long_run_stands_still_while_a_short_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "LOOKS", 3)
    path, stills = tmp_path / "beats", []

    def short() -> float:
        begun = time.time()
        time.sleep(0.3)
        stills.append((begun, time.time()))
        return 0.3

    run = subprocess.Popen([sys.executable, "-c", BEAT, path])
    try:
        deadline = time.monotonic() + 30
        while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        turns = take_turns(Run(Child(run.pid, tmp_path / "log"), tmp_path), short, seconds=0.9)
    finally:
        run.kill()
        run.wait()
    lines = path.read_text().splitlines(keepends=True)
    beats = [float(line) for line in lines if line.endswith("\n")]
    assert [turn.seconds for turn in turns] == pytest.approx([0.3] * 3, abs=0.15)
    assert all(shards_in(beats, turn.span) > 0 for turn in turns)
    assert [shards_in(beats, still) for still in stills] == [0, 0, 0]
    assert all(turn.resident_bytes > 2**20 for turn in turns)


def document(**changes: Any) -> dict[str, Any]:
    outcome = Outcome("a | fault", "one line", "one", True).as_json()
    return {
        "schema": 1, "kind": "drill", "date": "2026-01-01", "quick": False,
        "machine": {"cpu": "X", "num_cores": 2, "gpu": None},
        "drills": {"kills": {"seconds": 1.0, "outcomes": [outcome, outcome | {"met": False}, outcome | {"met": None}]}},
    } | changes  # fmt: skip


def test_what_is_saved_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    outcome = Outcome(
        "a fault", "a line", f"{tmp_path}/hung/out is left", False, f"image {tmp_path}/hung/0.png"
    )
    (found,) = _section([outcome], 1.0, folder=tmp_path)["outcomes"]
    assert (found["found"], found["note"]) == ("hung/out is left", "image hung/0.png")
    assert found["met"] is False


def test_the_readme_gets_the_latest_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x-drill-2026-01-01.json").write_text(json.dumps(document()))
    (tmp_path / "x-drill-2026-01-02.json").write_text(json.dumps(document(date="2026-01-02", quick=True)))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["table", str(readme), str(tmp_path)])
    table.main()
    lines = readme.read_text().splitlines()
    assert lines[2] == "X, 2 cores, 2026-01-01:"
    assert lines[6:9] == [
        f"| a \\| fault | one line | one | {verdict} |" for verdict in ("met", "NOT MET", "not run")
    ]
    (tmp_path / "x-drill-2026-01-03.json").write_text("{}")
    with pytest.raises(UserError, match="is no drill document"):
        table.main()


STOPS = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from d2r_fast.engine import stops
stops.STOP_WITHIN_S = 0.5
stops.stop_when_told()
with ThreadPoolExecutor(1) as pool:  # which waits for its threads, whatever comes
    pool.submit(time.sleep, 60)
    print("ready", flush=True)
    time.sleep(60)
"""
READS = """
import sys, time
from pathlib import Path
from d2r_fast.engine import patience
patience.READ_WITHIN_S = 1.0
patience.watch()
for _ in range(20):
    patience.timed(lambda path: time.sleep(0.05) or b"", Path("quick"))
print("ready", flush=True)
patience.timed(Path.read_bytes, Path(sys.argv[1]))
print("read", flush=True)
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_does_not_wait_for_threads_that_do_not_end(signum: int) -> None:
    process = start(STOPS)
    process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signum


def test_a_read_that_hangs_ends_the_process_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hung.png")
    process = start(READS, tmp_path / "hung.png")
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said == (
        f"d2r-fast: image {tmp_path}/hung.png was not read within 1 s: see that its disk answers, then run the same "
        "command again; what is finished is kept\n"
    )


def test_a_process_held_still_has_not_hung(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slow.png")
    process = start(READS, tmp_path / "slow.png")
    process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    writer = os.open(tmp_path / "slow.png", os.O_RDWR)  # the read can begin
    os.write(writer, b"data")
    process.send_signal(signal.SIGCONT)
    time.sleep(0.1)
    os.close(writer)
    said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, "read\n")
