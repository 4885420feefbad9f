"""`generate` and `translate` by several processes: the bytes of one, and one command line for both."""

import os
import pickle
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from d2r_fast.engine import pipeline
from d2r_fast.engine.dataset import Dataset, read_events
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.executors import place
from d2r_fast.engine.executors.maker import Task
from d2r_fast.engine.verify import verify
from d2r_fast.translation import translate
from d2r_fast.translation.random_weights import write_random_weights

from . import fakework, translating
from .fakedata import tree
from .test_pipeline import configure


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_weights("vsait", tmp_path_factory.mktemp("weights"), size="mini", seed=0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """What torch computes with by itself on two cores; rounding depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_translate_by_two_workers_and_by_an_array_makes_the_same_bytes(
    renders: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    one, two, array = (tmp_path / name for name in ("one", "two", "array"))
    assert translating.run(renders, weights, one, identities_per_shard=1) == 0
    assert translating.run(renders, weights, two, identities_per_shard=1, workers=2) == 0
    for name, value in (("MIN", 0), ("COUNT", 3), ("STEP", 1)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for task in (2, 0, 1):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        assert not (array / "_SUCCESS").exists()
        assert translating.run(renders, weights, array, identities_per_shard=1) == 0
    assert tree(one) == tree(two) == tree(array)
    assert verify(array).problems == []
    said = capsys.readouterr().err
    assert "SLURM array task 2, number 3 of 3: makes shards 2:4 of 4" in said
    assert "shards 2:4 are done, others are not finished yet" in said
    assert "shards 1:2 are done, the dataset is whole" in said


def test_a_task_of_the_array_without_a_shard_touches_nothing(
    renders: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ID", 0), ("MIN", 0), ("COUNT", 9)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert translating.run(renders, weights, tmp_path / "out") == 0
    assert not (tmp_path / "out").exists()


def run_pickled(task: Task, dataset: Dataset, devices: Sequence[str]) -> None:
    """What a worker process does with its orders, without the seconds that two interpreters take to start."""
    opener = pickle.loads(pickle.dumps(task.open))
    with opener(devices[-1], dataset.unfinished) as maker:
        place.run_here(task, maker, dataset, device=devices[-1])


def test_generate_by_workers_and_by_ranges_makes_the_same_bytes(
    renders: Path, mini_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, ranges = (tmp_path / name for name in ("one", "two", "ranges"))
    assert pipeline.generate(configure(renders, mini_models, one)) == 0
    assert pipeline.generate(configure(renders, mini_models, ranges, shards="1:4")) == 0
    monkeypatch.setattr(place, "run_local", run_pickled)
    assert pipeline.generate(configure(renders, mini_models, ranges, shards="0:1", workers=2)) == 0
    assert pipeline.generate(configure(renders, mini_models, two, workers=2)) == 0
    assert tree(one) == tree(two) == tree(ranges)


@pytest.mark.slow
def test_generate_by_two_processes_makes_the_same_bytes(
    renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert pipeline.generate(configure(renders, mini_models, one)) == 0
    assert pipeline.generate(configure(renders, mini_models, two, workers=2)) == 0
    assert tree(one) == tree(two)


def test_a_source_that_changes_while_a_run_goes_on_is_noticed(
    renders: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the worker that lists it anew."""
    source = shutil.copytree(renders, tmp_path / "source")
    last = sorted(source.iterdir())[-1]

    def run(task: Task, dataset: Dataset, devices: Sequence[str]) -> None:
        shutil.copy(next(last.iterdir()), last / "new.png")
        run_pickled(task, dataset, devices)

    monkeypatch.setattr(place, "run_local", run)
    with pytest.raises(UserError, match=rf"finds other images of identities {last.name} to {last.name} than"):
        translating.run(source, weights, tmp_path / "out", identities_per_shard=1, workers=2)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.fixture
def ray_cluster() -> Iterator[None]:
    """Of this machine, whose actors find the tests."""
    ray = pytest.importorskip("ray", reason="Ray is an extra")
    root = Path(__file__).parents[1]
    ray.init(
        address="local", num_cpus=2, num_gpus=0, include_dashboard=False, logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "two_threads")
def test_both_commands_on_a_ray_cluster_make_the_same_bytes_though_an_actor_dies(
    renders: Path, mini_models: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    doomed = tmp_path / "doomed"
    for module, make in (
        (
            translate,
            lambda out, **flags: translating.run(renders, weights, out, identities_per_shard=1, **flags),
        ),
        (pipeline, lambda out, **flags: pipeline.generate(configure(renders, mini_models, out, **flags))),
    ):
        alone, by_ray = (tmp_path / f"{module.__name__} {name}" for name in ("alone", "ray"))
        assert make(alone) == 0
        doomed.touch()
        with monkeypatch.context() as patch:
            patch.setattr(module, "open_maker", partial(fakework.open_dying, module.__name__, doomed, 2))
            assert make(by_ray, executor="ray", workers=2) == 0
        assert not doomed.exists()
        assert tree(by_ray) == tree(alone)
        assert verify(by_ray).problems == []
        lost = [event["shards"] for event in read_events(by_ray) if event["event"] == "lost"]
        assert any(2 in shards for shards in lost)


@pytest.mark.slow
def test_what_a_worker_refuses_is_one_line(renders: Path, mini_models: Path, tmp_path: Path) -> None:
    """The recogniser is read by the workers alone."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(UserError, match=r"broken\.onnx"):
        pipeline.generate(configure(renders, mini_models, tmp_path / "out", workers=2, recogniser=broken))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_range_beyond_the_last_shard_is_refused(renders: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shards = 0:3: there are 2, give at most 0:2"):
        translating.run(renders, weights, tmp_path / "out", shards="0:3")
    assert not (tmp_path / "out").exists()
