"""verify finds every planted fault and never cries wolf.

Two kinds of fault: damage, which the checksums show; and, `sealed` below, faults of whoever wrote the files,
where sizes and checksums are in order and only the contents contradict each other.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.marker import dump_line
from d2r_fast.engine.verify import run_verify, verify

from .fakedata import make_dataset, make_document
from .faults import (
    SMALL,
    Fault,
    edit_identities,
    edit_rows,
    faults,
    flip,
    folder_faults,
    parameters,
    replace_member,
    seal,
    sealed_faults,
)

COUNTS = {"shards": 3, "identities": 7, "wanted": 28, "written": 20, "rejected": 4, "failed": 4}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One whole dataset per format, to be copied before it is spoilt."""
    root = tmp_path_factory.mktemp("good")
    return {
        format: make_dataset(root / format, make_document(format=format))
        for format in ("webdataset", "imagefolder")
    }


def problems(folder: Path, **options: Any) -> list[str]:
    """What verify says, a refusal included."""
    try:
        return verify(folder, **options).problems
    except UserError as error:
        return [str(error)]


@pytest.mark.parametrize("fault", parameters(faults()))
def test_damage_is_found(tmp_path: Path, good: dict[str, Path], fault: Fault) -> None:
    folder = shutil.copytree(good["webdataset"], tmp_path / "a")
    fault(folder)
    assert problems(folder)
    assert problems(folder, quick=True)


@pytest.mark.parametrize("fault", parameters(sealed_faults()))
def test_contradictions_are_found(tmp_path: Path, good: dict[str, Path], fault: Fault) -> None:
    folder = shutil.copytree(good["webdataset"], tmp_path / "a")
    fault(folder)
    assert problems(folder)


@pytest.mark.parametrize("fault", parameters(folder_faults()))
def test_faults_of_an_imagefolder_are_found(tmp_path: Path, good: dict[str, Path], fault: Fault) -> None:
    folder = shutil.copytree(good["imagefolder"], tmp_path / "a")
    fault(folder)
    assert problems(folder)


@pytest.mark.parametrize("format", ["webdataset", "imagefolder"])
@pytest.mark.parametrize("quick", [False, True])
def test_good_dataset_has_no_problem(good: dict[str, Path], format: str, quick: bool) -> None:
    report = verify(good[format], quick=quick)
    assert report.problems == []
    assert {name: report.counts[name] for name in COUNTS} == COUNTS
    listed = [json.loads(path.read_bytes())["files"] for path in good[format].glob("*_stats.json")]
    assert report.counts["bytes"] == sum(entry["bytes"] for files in listed for entry in files.values())


def test_png_and_sealing_alone_are_no_fault(tmp_path: Path, good: dict[str, Path]) -> None:
    assert problems(make_dataset(tmp_path / "png", make_document(image_format="png"))) == []
    folder = shutil.copytree(good["webdataset"], tmp_path / "a")
    seal(folder, 1)
    edit_rows(lambda rows: None)(folder)
    edit_identities(lambda rows: None)(folder)
    assert problems(folder) == []


def test_what_people_do_to_datasets_is_no_fault(tmp_path: Path, good: dict[str, Path]) -> None:
    folder = shutil.copytree(good["webdataset"], tmp_path / "a")
    for name in (".lock", "events.jsonl"):
        (folder / name).unlink()
    for name in ("README.md", "notes.txt", ".gitattributes", "report.html", "train.rec"):
        (folder / name).write_text("mine")
    (folder / "plots").mkdir()
    document = json.loads((folder / "dataset.json").read_bytes())
    (folder / "dataset.json").write_text(json.dumps(document, sort_keys=True))
    assert problems(folder) == []


def test_a_listed_name_that_became_anothers_is_found(tmp_path: Path, good: dict[str, Path]) -> None:
    """As one flipped bit can do: JSON keeps the later of two equal names and says nothing."""
    folder = shutil.copytree(good["imagefolder"], tmp_path / "a")
    marker = folder / "00001_stats.json"
    first, second = [name for name in json.loads(marker.read_text())["files"] if "/" in name][:2]
    marker.write_text(marker.read_text().replace(f'"{first}"', f'"{second}"'))
    assert problems(folder)


def test_unfinished_shards_are_listed(tmp_path: Path, good: dict[str, Path]) -> None:
    folder = shutil.copytree(good["webdataset"], tmp_path / "a")
    for name in ("00000_stats.json", "00002.parquet", "_SUCCESS"):
        (folder / name).unlink()
    assert problems(folder) == [
        "shard 00000 is not finished: 00000_stats.json is missing",
        "shard 00002 is not finished: 00002.parquet is missing",
    ]


def test_problems_name_the_place(tmp_path: Path, good: dict[str, Path]) -> None:
    folder = shutil.copytree(good["webdataset"], tmp_path / "a")
    replace_member(1, lambda data: SMALL)(folder)
    flip("00002.tar", 0)(folder)
    assert problems(folder) == [
        "00001.tar: 000003_000.jpg is 112x96, not 112x112",
        "00002.tar does not have the SHA-256 that 00002_stats.json gives it",
    ]


def test_many_problems_are_cut(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "a", make_document(num_identities=1, images=60, per_shard=1))
    errors = dump_line({}) * 60
    (folder / "00000_errors.jsonl").write_bytes(errors)
    seal(folder, 0)
    found = problems(folder)
    assert len(found) == 21
    assert found[-1] == "shard 00000: 40 more problems"


def test_processes_find_the_same(tmp_path: Path, good: dict[str, Path]) -> None:
    folder = shutil.copytree(good["webdataset"], tmp_path / "a")
    flip("00001.tar", 0)(folder)
    flip("00002.parquet", 0)(folder)
    alone, together = verify(folder), verify(folder, num_workers=2)
    assert alone == together
    assert len(alone.problems) == 2


def test_command(tmp_path: Path, good: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verify(good["webdataset"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "28 wanted, 20 written, 4 rejected, 4 failed" in captured.err
    folder = shutil.copytree(good["webdataset"], tmp_path / "a")
    (folder / "00001.tar").unlink()
    assert run_verify(folder, quick=True) == 1
    captured = capsys.readouterr()
    assert captured.out == "shard 00001 is not finished: 00001.tar is missing\n"
    assert "1 problem" in captured.err


@pytest.mark.parametrize("name", ["no", "empty"])
def test_no_dataset(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no dataset\.json, so it is no dataset of d2r-fast"):
        run_verify(tmp_path / name)


def test_nothing_is_written(good: dict[str, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in good["imagefolder"].rglob("*")}
    verify(good["imagefolder"])
    assert before == {path: path.stat().st_mtime_ns for path in good["imagefolder"].rglob("*")}
