"""Verification .bin files: every way they are pickled, and pickles that want more than to be read."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.evaluation.bin_file import read_bin, write_bin

from .fakebench import encode, face

IMAGES = [b"\xff\xd8\xff\xe0first", b"\xff\xd8\x00second", b"\x89PNG\n\r", b"\x00"]
SAME = [True, False]

# What Python 2 wrote with protocol 2, byte for byte: str as SHORT_BINSTRING (U), bools as \x88 and \x89.
PYTHON_2 = (
    b"\x80\x02]q\x00(U\x04\xff\xd8\xff\xe0q\x01U\x03\x89PNq\x02U\x02\xff\xd8q\x03U\x01\x00q\x04e"
    b"]q\x05(\x88\x89e\x86q\x06."
)
_ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03%stb"
)
_BOOL = (
    b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02b1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"U\x01%s\x86R"
)
PYTHON_2_NUMPY = (
    b"\x80\x02](" + _ARRAY % b"\xff\xd8\xe0" + _ARRAY % b"\xff\x00\x01" + b"e](" + _BOOL % b"\x01" + b"e\x86."
)
# Protocol 0, all text: bools as I01 and I00.
PYTHON_2_TEXT = b"((lp0\nS'\\xff\\xd8'\np1\naS'\\x89PNG'\np2\na(lp3\nI00\natp4\n."


def write(path: Path, value: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.bin", IMAGES, np.array(SAME))
    found = read_bin(tmp_path / "a.bin")
    assert found.images == IMAGES
    assert found.same.dtype == bool
    assert found.same.tolist() == SAME


def test_others_read_what_is_written(tmp_path: Path) -> None:
    """InsightFace's own way to read, and plain objects alone."""
    write_bin(tmp_path / "a.bin", IMAGES, SAME)
    images, same = pickle.loads((tmp_path / "a.bin").read_bytes(), encoding="bytes")
    assert images == IMAGES
    assert same == SAME
    assert {type(value) for value in images} == {bytes}
    assert {type(value) for value in same} == {bool}


def test_written_pairs_are_complete(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 images for 2 labels"):
        write_bin(tmp_path / "a.bin", IMAGES[:3], SAME)
    assert not (tmp_path / "a.bin").exists()


ARRAYS = [np.frombuffer(image, np.uint8) for image in IMAGES]
WAYS = {
    "bytes": (IMAGES, SAME),
    "list": [IMAGES, SAME],
    "arrays": (ARRAYS, SAME),
    "writable arrays": ([array.copy() for array in ARRAYS], SAME),
    "array of bytes": (objects(IMAGES), SAME),
    "array of arrays": (objects(ARRAYS), np.array(SAME)),
    "bytearrays": ([bytearray(image) for image in IMAGES], SAME),
    "numpy bools": (IMAGES, [np.bool_(label) for label in SAME]),
    "array of bools": (IMAGES, np.array(SAME)),
    "array of objects": (IMAGES, objects(SAME)),
    "ints": (IMAGES, [1, 0]),
    "numpy ints": (IMAGES, [np.int64(1), np.int32(0)]),
    "array of ints": (IMAGES, np.array([1, 0])),
    "big-endian ints": (IMAGES, np.array([1, 0], ">i4")),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("way", WAYS)
def test_python_3_pickles(way: str, protocol: int, tmp_path: Path) -> None:
    found = read_bin(write(tmp_path / "a.bin", WAYS[way], protocol))
    assert found.images == IMAGES
    assert found.same.tolist() == SAME


def test_python_2_pickle(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(PYTHON_2)
    found = read_bin(tmp_path / "a.bin")
    assert found.images == [b"\xff\xd8\xff\xe0", b"\x89PN", b"\xff\xd8", b"\x00"]
    assert found.same.tolist() == [True, False]


def test_python_2_pickle_of_numpy(tmp_path: Path) -> None:
    expected, _ = pickle.loads(PYTHON_2_NUMPY, encoding="bytes")  # the literal is what NumPy itself reads
    (tmp_path / "a.bin").write_bytes(PYTHON_2_NUMPY)
    found = read_bin(tmp_path / "a.bin")
    assert found.images == [array.tobytes() for array in expected] == [b"\xff\xd8\xe0", b"\xff\x00\x01"]
    assert found.same.tolist() == [True]


def test_python_2_pickle_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(PYTHON_2_TEXT)
    found = read_bin(tmp_path / "a.bin")
    assert found.images == [b"\xff\xd8", b"\x89PNG"]
    assert found.same.tolist() == [False]


class Runs:
    """Runs a command where pickle is believed."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    path = write(tmp_path / "a.bin", (IMAGES, [Runs(f"touch {mark}"), False]), protocol)
    with pytest.raises(UserError, match=r"asks for posix\.system.*can run code"):
        read_bin(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists(), "the pickle does what it is said to do"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("builtins.eval", b"cbuiltins\neval\n(S'1/0'\ntR."),
        ("builtins.getattr", b"cbuiltins\ngetattr\n(S'a'\nS'b'\ntR."),
        ("numpy.load", b"cnumpy\nload\n(S'/etc/passwd'\ntR."),
        ("os.system", b"(S'exit 1'\nios\nsystem\n."),  # INST
        ("os.system", b"(cos\nsystem\nS'exit 1'\no."),  # OBJ
        (
            "numpy.core.multiarray.builtins.eval",
            b"\x80\x04\x8c\x15numpy.core.multiarray\x8c\x0dbuiltins.eval\x93.",
        ),
    ],
)
def test_other_names_are_refused(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(UserError, match=f"asks for {name}"):
        read_bin(tmp_path / "a.bin")


@pytest.mark.parametrize(
    "data",
    [
        b"cnumpy\nndarray\n}S'shape'\nI1\nsb.",  # BUILD with a dict
        b"cnumpy\nndarray\nN}S'__setstate__'\nI1\ns\x86b.",  # BUILD with slots, which would outlive the reading
        b"cnumpy\nndarray\nN}S'_name'\nS'dtype'\ns\x86b.",
        b"cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"cnumpy\ndtype\n(tR.",
        b"c_codecs\nencode\n(S'x'\nS'utf-7'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(S'x'\nS'y'\ntR.",
        b"\x80\x02U\x01aQ.",  # a persistent id
    ],
)
def test_stand_ins_hold(data: bytes, tmp_path: Path) -> None:
    """Names that are allowed, used as no writer uses them; reading goes on to work afterwards."""
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_bin(tmp_path / "a.bin")
    assert read_bin(write(tmp_path / "b.bin", WAYS["array of arrays"])).images == IMAGES


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((IMAGES[:3], SAME), "3 images, an odd number"),
        ((IMAGES, [True]), "4 images and 1 labels"),
        ((IMAGES, []), "4 images and 0 labels"),
        (([], []), "0 images and 0 labels"),
        ((IMAGES, [True, 2]), "label 1 is 2"),
        ((IMAGES, [True, None]), "label 1 is None"),
        ((IMAGES, [True, 1.0]), "label 1 is 1.0"),
        ((["text", *IMAGES[1:]], SAME), "image 0 is no encoded file"),
        (([*IMAGES[:3], np.zeros((4, 4, 3), np.uint8)], SAME), "shape"),
        ((np.array([b"ab", b"c", b"d", b"e"]), SAME), "array of S2"),
        ((IMAGES, np.array([0.5, 1])), "array of f8"),
        ((IMAGES, SAME, "more"), "no pickle of"),
        ({"images": IMAGES}, "no pickle of"),
        ((b"abc", SAME), "bytes where a list"),
    ],
)
def test_bad_contents(value: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", value)
    with pytest.raises(UserError, match=message) as error:
        read_bin(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", [0, 1, 20, 60, -1])
def test_damaged_files(part: int, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps((IMAGES, SAME), 4)[:part])
    with pytest.raises(UserError, match="damaged"):
        read_bin(tmp_path / "a.bin")


def test_no_pickle(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(encode(face(0, 0)))
    with pytest.raises(UserError, match=r"a\.bin"):
        read_bin(tmp_path / "a.bin")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_bin(tmp_path / "a.bin")
    with pytest.raises(UserError, match="Is a directory"):
        read_bin(tmp_path)
