"""RFW: pairs, landmarks, alignment, and the mean and spread over races."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.crops import LooseCrops
from d2r_fast.recognition.evaluation.fusion import parse_fusion
from d2r_fast.recognition.evaluation.pairs import verify_pairs
from d2r_fast.recognition.evaluation.rfw import RfwFolder, read_rfw
from d2r_fast.recognition.evaluation.suites import Settings, find_suites

from .fakebench import RACES, CoarsePixels, face, make_bin, make_rfw, pair_list

SETTINGS = Settings(flip=True, fusion=parse_fusion("insightface"), batch_size=8, max_unreadable=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_rfw(tmp_path / "RFW" / "test")
    return tmp_path / "RFW" / "test"


def test_reads_pairs_in_order(folder: Path) -> None:
    pairs = read_rfw(RfwFolder(folder), "Asian")
    shots, same = pair_list(12, seed=1)
    assert isinstance(pairs.crops, LooseCrops)
    names = [pairs.crops.paths[row].name for row in pairs.rows]
    assert names == [f"m.{identity}_{shot:04d}.jpg" for identity, shot in shots]
    assert pairs.same.tolist() == same
    assert len(pairs.crops) == len(set(shots)), "an image is listed once"


def test_crops_are_aligned_by_the_landmarks(folder: Path) -> None:
    """Faces of twice the size at (80, 100): aligned they lie where the template has them."""
    pairs = read_rfw(RfwFolder(folder), "Indian")
    shots, _ = pair_list(12, seed=3)
    for place in (0, 5):
        crop = pairs.crops.read(int(pairs.rows[place])).astype(int)
        assert np.abs(crop[4:-4, 4:-4] - face(*shots[place])[4:-4, 4:-4]).mean() < 3


def test_mean_and_population_deviation(folder: Path) -> None:
    (suite,) = find_suites(folder.parents[1])
    result = suite.measure(CoarsePixels(), SETTINGS)
    alone = {
        race: verify_pairs(read_rfw(RfwFolder(folder), race), CoarsePixels(), suite=race) for race in RACES
    }
    assert result.races == alone
    accuracies = [found.accuracy for found in alone.values() if found.accuracy is not None]
    assert result.accuracy == pytest.approx(fmean(accuracies))
    assert result.std == pytest.approx(pstdev(accuracies))
    assert all(len(found.folds) == len(found.thresholds) == 10 for found in alone.values())
    assert result.num_genuine == result.num_impostor == 4 * 6


@pytest.mark.parametrize("place", ["RFW", "rfw", "."])
def test_bin_files_of_races(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    for number, race in enumerate(RACES):
        make_bin(tmp_path / place / f"{race}_test.bin", num=10 + number, seed=number)
    (suite,) = find_suites(tmp_path)
    assert suite.name == "rfw"
    result = suite.measure(CoarsePixels(), SETTINGS)
    assert [found.num_genuine + found.num_impostor for found in result.races.values()] == [10, 11, 12, 13]


def test_a_race_is_missing(tmp_path: Path) -> None:
    for race in RACES[:3]:
        make_bin(tmp_path / f"{race}_test.bin")
    with pytest.raises(UserError, match=r"lacks Indian_test\.bin"):
        find_suites(tmp_path)


def test_a_stray_race_hinders_rfw_alone(tmp_path: Path) -> None:
    make_bin(tmp_path / "African_test.bin")
    make_bin(tmp_path / "lfw.bin")
    assert [suite.name for suite in find_suites(tmp_path, ["lfw"])] == ["lfw"]
    for names in ([], ["rfw"], ["lfw", "rfw"]):
        with pytest.raises(UserError, match=r"lacks Asian_test\.bin, Caucasian_test\.bin, Indian_test\.bin"):
            find_suites(tmp_path, names)


def test_the_limit_of_unreadable_images_is_of_all_races_together(folder: Path) -> None:
    (suite,) = find_suites(folder.parents[1])
    for race in ("African", "Indian"):
        read_rfw(RfwFolder(folder), race).crops.paths[0].write_bytes(b"broken")
    with pytest.raises(UserError, match=r"Indian: 1 of \d+ images cannot be used and 0 may be left out"):
        suite.measure(CoarsePixels(), replace(SETTINGS, max_unreadable=1))
    assert suite.measure(CoarsePixels(), replace(SETTINGS, max_unreadable=2)).num_unreadable == 2


@pytest.mark.parametrize("folder_name", ["RFW", "rfw"])
@pytest.mark.parametrize("inner", ["test", "."])
def test_where_it_is_looked_for(tmp_path: Path, folder_name: str, inner: str) -> None:
    make_rfw(tmp_path / folder_name / inner)
    assert [suite.name for suite in find_suites(tmp_path)] == ["rfw"]


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("pairs", "m.1\t1", "line 13 is 'm.1 1'"),
        ("pairs", "m.1\t1\tm.2\tx", "line 13 is"),
        ("pairs", "m.1\t1\tm.2\t2\t3", "line 13 is"),
        ("pairs", "m.1\t77\t1", r"line 13 names m\.1/m\.1_0077\.jpg.*Asian_lmk\.txt has no landmarks"),
        ("lmk", "/test/data/Asian/m.1/m.1_0001.jpg\t0\t1\t2", "a label and five points"),
        ("lmk", "/a/b.jpg\t0" + "\tx" * 10, "a label and five points"),
    ],
)
def test_bad_lines(folder: Path, file: str, line: str, message: str) -> None:
    path = folder / "txts" / "Asian" / f"Asian_{file}.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=message):
        read_rfw(RfwFolder(folder), "Asian")


def test_missing_files(folder: Path) -> None:
    (folder / "txts" / "Asian" / "Asian_lmk.txt").write_text("")
    with pytest.raises(UserError, match="is empty"):
        read_rfw(RfwFolder(folder), "Asian")
    (folder / "txts" / "Asian" / "Asian_lmk.txt").unlink()
    with pytest.raises(UserError, match="No such file"):
        read_rfw(RfwFolder(folder), "Asian")


def test_a_missing_image_is_named(folder: Path) -> None:
    pairs = read_rfw(RfwFolder(folder), "Asian")
    assert isinstance(pairs.crops, LooseCrops)
    lost = pairs.crops.paths[0]
    lost.unlink()
    with pytest.raises(UserError, match=rf"Asian: 1 of .*{lost.name}: No such file"):
        verify_pairs(pairs, CoarsePixels(), suite="Asian")
    found = verify_pairs(pairs, CoarsePixels(), suite="Asian", max_unreadable=1)
    left_out = int((pairs.rows.reshape(-1, 2) == 0).any(axis=1).sum())
    assert found.num_unreadable == 1
    assert found.num_genuine + found.num_impostor == 12 - left_out
