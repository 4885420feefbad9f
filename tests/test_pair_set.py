"""Verification sets from lists of pairs, read back by the reader of the published ones."""

from pathlib import Path

import pytest

from d2r_fast.engine.cli import parse
from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.bin_file import BinPairs, read_bin


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    root = tmp_path / "faces"
    for name in ("Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "Bo b/1.png", "Bo b/10.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((b"\xff\xd8\xff" if name.endswith("jpg") else b"\x89PNG") + name.encode())
    return root


def make(faces: Path, text: str) -> BinPairs:
    pairs, out = faces.parent / "pairs.txt", faces.parent / "faces.bin"
    pairs.write_text(text, encoding="utf-8")
    assert parse(["convert", str(faces), "--to", "bin", "--pairs", str(pairs), "--out", str(out)]).run() == 0
    return read_bin(out)


def names(found: BinPairs) -> list[str]:
    return [image.lstrip(b"\xff\xd8\x89PNG").decode() for image in found.images]


@pytest.mark.parametrize(
    "text",
    [
        "Ann/Ann_0001.jpg\tAnn/Ann_0002.jpg\t1\nAnn/Ann_0001.jpg\tBo b/10.png\t0\n",
        "any/where/Ann/Ann_0001.jpg, Ann/Ann_0002.jpg, 1\n\nAnn/Ann_0001.jpg,Bo b/10.png,0",
        "10\t300\nAnn\t1\t2\nAnn\t1\tBo b\t10\n",
        "\ufeffAnn\t1\t2\r\nAnn\t0001\tBo b\t10\r\n",
    ],
)
def test_pairs_come_in_the_order_of_the_list(faces: Path, text: str) -> None:
    found = make(faces, text)
    assert names(found) == ["Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "Ann/Ann_0001.jpg", "Bo b/10.png"]
    assert found.same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Ann/Ann_0001.jpg Ann/Ann_0009.jpg 1", r"line 1: there is no image Ann/Ann_0009\.jpg in the source"),
        ("Ann 1 2\nZoe 1 2\n", r"line 2: there is no identity Zoe"),
        ("Ann 1 7\n", r"line 1: identity Ann has 0 images that could be number 7"),
        ("Ann 1 2 3 4\n", r"line 1 is 'Ann 1 2 3 4': wanted is"),
        ("Ann/Ann_0001.jpg Ann/Ann_0002.jpg 2\n", "wanted is"),
        ("10 300\n", "holds no pair"),
        ("", "holds no pair"),
    ],
)
def test_wrong_lines_are_named(faces: Path, text: str, error: str) -> None:
    with pytest.raises(UserError, match=error):
        make(faces, text)
    assert not (faces.parent / "faces.bin").exists()


def test_an_image_that_cannot_be_read_ends_it(faces: Path) -> None:
    (faces / "Ann" / "Ann_0002.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"Ann_0002\.jpg is empty"):
        make(faces, "Ann 1 2\n")


def test_no_list_is_one_line(faces: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        parse(
            ["convert", str(faces), "--to", "bin", "--pairs", "absent", "--out", str(faces.parent / "o.bin")]
        ).run()
