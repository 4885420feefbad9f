"""Datasets behind fsspec: the bytes of a local run, whatever is interrupted, wherever it goes on, in memory, on a
disk and on a server of S3."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from d2r_fast.engine import remote as remote_module
from d2r_fast.engine.config import GenerateConfig, smoke
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.executors.place import Machine
from d2r_fast.engine.marker import WORKERS, is_events, shard_number
from d2r_fast.engine.out import Out, find_out
from d2r_fast.engine.remote import Remote
from d2r_fast.engine.status import read_remote_status, run_status
from d2r_fast.engine.verify import run_verify

from . import s3server
from .fakedata import make_dataset, make_document, tree, write
from .fakework import fake_task

needs_s3 = pytest.mark.skipif(bool(s3server.MISSING), reason=f"not installed: {', '.join(s3server.MISSING)}")
KINDS = ["memory", "file", pytest.param("s3", marks=needs_s3)]
FORMATS = ("webdataset", "imagefolder")


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    with s3server.serve() as environment:
        yield environment


@pytest.fixture
def bucket(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    kind: Any = fsspec.get_filesystem_class("s3")
    kind.clear_instance_cache()
    fs = fsspec.filesystem("s3")
    fs.mkdir("faces")
    yield "s3://faces/sets/one"
    fs.rm("faces", recursive=True)
    kind.clear_instance_cache()


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "WAITS_S", (0.0, 0.0))


@pytest.fixture
def memory() -> Iterator[str]:
    store: Any = fsspec.get_filesystem_class("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield "memory://faces/one"
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/shared/one"
    return str(request.getfixturevalue("memory" if request.param == "memory" else "bucket"))


def make(
    url: str, stage: Path, document: dict[str, Any], *, shards: range | None = None, most: int | None = None
) -> list[int]:
    """Make what is not finished, `most` shards at most; which."""
    out = Out(stage, Remote(url))
    with Dataset.open(out, document, shards=shards) as dataset:
        dataset.begin()
        dataset.log("start")
        made = dataset.unfinished[:most]
        for shard in made:
            out.deliver(write(stage, document, shard))
        if most is None:
            dataset.finish()
    return made


def remote_tree(url: str) -> dict[str, str]:
    """As fakedata.tree."""
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    names = {path[len(root) :].lstrip("/"): path for path in fs.find(root)}
    own = {
        name: path for name, path in names.items() if name.split("/")[0] != WORKERS and not is_events(name)
    }
    return {name: hashlib.sha256(fs.cat_file(path)).hexdigest() for name, path in sorted(own.items())}


@pytest.mark.parametrize("place", KINDS, indirect=True)
@pytest.mark.parametrize("format", FORMATS)
def test_same_bytes_as_a_local_run(place: str, format: str, tmp_path: Path) -> None:
    document = make_document(format=format)
    local = tree(make_dataset(tmp_path / "local", document))
    assert make(place, tmp_path / "stage", document) == [0, 1, 2]
    assert remote_tree(place) == local
    left = [path.name for path in (tmp_path / "stage").iterdir() if shard_number(path.name) is not None]
    assert left == [], "finished shards are deleted from the stage"
    assert make(place, tmp_path / "elsewhere", document) == [], "an empty stage finds all finished"
    assert remote_tree(place) == local
    assert run_verify(place) == 0
    assert run_status(place, as_json=True) == 0


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_ranges_from_two_machines_make_one_dataset(place: str, tmp_path: Path) -> None:
    document = make_document(num_identities=8, per_shard=2)
    make(place, tmp_path / "one", document, shards=range(2))
    status = read_remote_status(Remote(place))
    assert (status.progress, status.finished, status.folder) == ("stopped", (0, 1), place)
    assert run_verify(place) == 1
    make(place, tmp_path / "two", document, shards=range(2, 4))
    assert remote_tree(place) == tree(make_dataset(tmp_path / "local", document))
    logs = [name for name in Remote(place).sizes() if is_events(name)]
    assert logs == ["events-00000-00002.jsonl", "events-00002-00004.jsonl"]


class Flaky:
    """Puts of the file system that fail from the n-th on, for a while or for ever, half a file sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, first: int, count: int) -> None:
        self.puts, self.failing = 0, range(first, first + count)
        kind: Any = fsspec.get_filesystem_class("memory")
        put_file = kind.put_file

        def put(fs: Any, source: str, target: str, **options: Any) -> None:
            self.puts += 1
            if self.puts - 1 in self.failing:
                fs.pipe_file(target, Path(source).read_bytes()[:10])
                raise ConnectionResetError("connection reset by peer")
            put_file(fs, source, target, **options)

        monkeypatch.setattr(kind, "put_file", put)


@pytest.mark.parametrize("format", FORMATS)
def test_an_upload_cut_short_leaves_no_marker_without_its_data(
    memory: str, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = make_document(num_identities=4, images=1, per_shard=2, format=format)
    local = tree(make_dataset(tmp_path / "local", document))
    store: Any = fsspec.get_filesystem_class("memory")
    for first in (
        0,
        3,
        4,
        5,
        10,
    ):  # the first file, the last one of data, the marker, the next shard, the log
        store.store.clear()
        with monkeypatch.context() as patch:
            Flaky(patch, first=first, count=1000)
            with pytest.raises(
                RunError, match=rf"{memory}/.* failed .connection reset by peer.*same command"
            ):
                make(memory, tmp_path / f"stage {first}", document)
        there = Remote(memory).sizes()
        for name in (name for name in there if name.endswith("_stats.json") and there[name] > 10):
            files = json.loads(Remote(memory).read(name) or b"")["files"]
            assert {file: there.get(file) for file in files} == {
                file: entry["bytes"] for file, entry in files.items()
            }
        make(memory, tmp_path / f"stage {first}", document)
        assert remote_tree(memory) == local


def test_what_fails_for_a_moment_is_tried_again(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = make_document()
    flaky = Flaky(monkeypatch, first=2, count=2)
    make(memory, tmp_path / "stage", document)
    assert flaky.puts > 4
    assert remote_tree(memory) == tree(make_dataset(tmp_path / "local", document))
    assert capsys.readouterr().err.count("connection reset by peer; trying again in 0 s") == 2


def test_an_upload_that_lost_bytes_is_seen(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = fsspec.get_filesystem_class("memory")
    monkeypatch.setattr(
        kind, "put_file", lambda fs, source, target, **_: fs.pipe_file(target, Path(source).read_bytes()[:-1])
    )
    with pytest.raises(RunError, match="bytes arrived"):
        make(memory, tmp_path / "stage", make_document())


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_another_recipe_is_refused(place: str, tmp_path: Path) -> None:
    make(place, tmp_path / "stage", make_document(), most=1)
    before = remote_tree(place)
    with pytest.raises(UserError, match=f"{place} holds another dataset: recipe.seed is 0, given 1"):
        make(place, tmp_path / "other", make_document(seed=1))
    assert remote_tree(place) == before


def test_what_is_no_dataset_is_left_alone(memory: str, tmp_path: Path) -> None:
    Remote(memory).write("thesis.tex", b"years of work")
    with pytest.raises(UserError, match=r"holds thesis\.tex and no dataset.json"):
        make(memory, tmp_path / "stage", make_document())
    for command in (run_verify, lambda url: run_status(url, as_json=False)):
        with pytest.raises(UserError, match=f"{memory} holds no dataset.json"):
            command(memory)


def test_who_begins_at_the_same_time_with_other_settings_is_told(memory: str, tmp_path: Path) -> None:
    with Dataset.open(Out(tmp_path / "one", Remote(memory)), make_document()) as late:
        make(memory, tmp_path / "two", make_document(seed=1), most=0)
        with pytest.raises(RunError, match="begun by another run with other settings"):
            late.begin()


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_verify_finds_a_damaged_object(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(place, tmp_path / "stage", make_document())
    remote = Remote(place)
    tar = bytearray(remote.read("00001.tar") or b"")
    tar[len(tar) // 2] ^= 1
    remote.write("00001.tar", bytes(tar))
    assert run_verify(place, quick=True) == 1
    assert "00001.tar does not have the SHA-256 that 00001_stats.json gives it" in capsys.readouterr().out
    remote.remove("00001.tar")
    remote.write("00007.tar", b"left over")
    assert run_verify(place, quick=True) == 1
    found = capsys.readouterr().out
    assert "shard 00001 is not finished: 00001.tar is missing" in found
    assert "00007.tar is no file of this dataset" in found
    assert make(place, tmp_path / "stage", make_document()) == [1], "what is missing is made again"


def test_a_marker_that_leads_out_of_the_dataset_is_not_followed(memory: str, tmp_path: Path) -> None:
    make(memory, tmp_path / "stage", make_document())
    marker = json.loads(Remote(memory).read("00000_stats.json") or b"")
    marker["files"]["../../outside"] = {"sha256": "", "bytes": 1}
    Remote(memory).write("00000_stats.json", json.dumps(marker).encode())
    with pytest.raises(RunError, match="leads out of it"):
        run_verify(memory)


def test_two_runs_of_one_stage(memory: str, tmp_path: Path) -> None:
    with (
        Dataset.open(Out(tmp_path / "stage", Remote(memory)), make_document()),
        pytest.raises(RunError, match="in use by process"),
    ):
        Dataset.open(Out(tmp_path / "stage", Remote(memory)), make_document())


def test_two_machines_that_make_the_same_shards_do_no_harm(memory: str, tmp_path: Path) -> None:
    document = make_document()
    outs = [Out(tmp_path / name, Remote(memory)) for name in ("one", "two")]
    one, two = (Dataset.open(out, document) for out in outs)
    with one, two:
        for dataset in (one, two):
            dataset.begin()
        for shard in range(3):
            for out in outs:
                out.deliver(write(out.folder, document, shard))
        assert one.finish() == two.finish()
    assert remote_tree(memory) == tree(make_dataset(tmp_path / "local", document))


def test_the_log_of_an_earlier_machine_is_kept(memory: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(memory, tmp_path / name, make_document())
    log = Remote(memory).read("events.jsonl") or b""
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["start", "start"]


def test_settings_find_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(out: Any, stage: Path | None = None) -> GenerateConfig:
        return GenerateConfig(source=tmp_path, models=tmp_path, out=out, stage=stage)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = make_document(), make_document(seed=1)
    found = find_out(given("s3://b/p"), one, here=False)
    assert found.remote == Remote("s3://b/p")
    assert found.folder.parent == tmp_path / "d2r-fast" / "stage"
    assert found.folder.name.startswith("s3-b-p-")
    assert (
        find_out(given("s3://b/p/", tmp_path / "s"), one, here=True).folder
        == tmp_path / "s" / found.folder.name
    )
    assert find_out(given("s3://b/p"), other, here=True).folder != found.folder
    assert find_out(given(str(tmp_path / "out")), one, here=True) == Out(tmp_path / "out")
    with pytest.raises(UserError, match="--stage is for an --out such as"):
        find_out(given(tmp_path / "out", tmp_path), one, here=True)
    with pytest.raises(UserError, match=r"memory://x is seen by one process alone.*--workers 1"):
        find_out(given("memory://x"), one, here=False)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://b/p", "no address that fsspec knows"),
        ("gs://b/p", "needs gcsfs: pip install 'gcsfs'"),
        ("file:///", "names no bucket or folder"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        make(url, tmp_path / "stage", make_document())
    assert "\n" not in str(refused.value)


@needs_s3
def test_s3_that_cannot_be_used(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = fsspec.get_filesystem_class("s3")
    with pytest.raises(UserError, match=r"s3://nosuch/p is not there.*make the bucket"):
        make("s3://nosuch/p", tmp_path / "stage", make_document())
    with pytest.raises(UserError, match="names no bucket"):
        make("s3://", tmp_path / "stage", make_document())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    kind.clear_instance_cache()
    with pytest.raises(UserError, match=f"{bucket}.* needs credentials.*AWS_ACCESS_KEY_ID"):
        make(bucket, tmp_path / "stage", make_document())


@needs_s3
def test_workers_in_processes_of_their_own_send_what_they_make(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))  # they are interpreters of their own
    document = make_document(num_identities=4, per_shard=1, format="imagefolder")
    out = Out(tmp_path / "stage", Remote(bucket))
    with Dataset.open(out, document) as dataset:
        task = fake_task(out, document, crew=2)
        Machine(("cpu",) * 2).run(task, dataset)
        workers = read_remote_status(Remote(bucket)).workers
        assert [(worker.said.name, worker.state) for worker in workers] == [
            ("w0", "finished"),
            ("w1", "finished"),
        ]
        assert sum(worker.said.done for worker in workers) == 4
        dataset.finish()
    assert remote_tree(bucket) == tree(make_dataset(tmp_path / "local", document))


def test_what_writes_to_folders_alone_refuses_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="s3:/b/p is no folder but an address"):
        Dataset.open(Path("s3://b/p"), make_document())
    assert list(tmp_path.iterdir()) == []


def test_translate_writes_to_an_address(
    memory: str, renders: Path, shift: Path, shifted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from . import translating  # imports torch, as generate does: what is above needs none
    from .fakemethod import use_fake_method

    use_fake_method(monkeypatch)
    assert translating.run(renders, shift, memory, stage=tmp_path) == 0  # type: ignore[arg-type]
    assert remote_tree(memory) == tree(shifted)


def test_generate_writes_to_an_address(memory: str, renders: Path, mini_models: Path, tmp_path: Path) -> None:
    from d2r_fast.engine.pipeline import generate

    small = smoke() | {
        "source": renders, "models": mini_models, "device": "cpu", "identities": 2, "images_per_identity": 2,
        "steps": 1, "height": 64, "width": 64,
    }  # fmt: skip
    for settings in ({"out": tmp_path / "local"}, {"out": memory, "stage": tmp_path / "stage"}):
        assert generate(GenerateConfig(**small | settings)) == 0
    assert remote_tree(memory) == tree(tmp_path / "local")
    with pytest.raises(UserError, match=r"memory://.* is seen by one process alone"):
        generate(GenerateConfig(**small | {"out": memory, "workers": 2}))
