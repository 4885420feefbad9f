"""`generate` and `translate` by several processes: the bytes of one, and one command line for both."""

from pathlib import Path

import pytest

from d2r_fast.engine import pipeline
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.verify import verify
from d2r_fast.translation.random_weights import write_random_weights

from . import translating
from .fakedata import tree
from .test_pipeline import configure


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_weights("vsait", tmp_path_factory.mktemp("weights"), size="mini", seed=0)


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


def test_generate_by_two_workers_and_by_ranges_makes_the_same_bytes(
    renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    one, two, ranges = (tmp_path / name for name in ("one", "two", "ranges"))
    assert pipeline.generate(configure(renders, mini_models, one)) == 0
    assert pipeline.generate(configure(renders, mini_models, ranges, shards="1:4")) == 0
    assert pipeline.generate(configure(renders, mini_models, ranges, shards="0:1")) == 0
    assert pipeline.generate(configure(renders, mini_models, two, workers=2)) == 0
    assert tree(one) == tree(two) == tree(ranges)


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
