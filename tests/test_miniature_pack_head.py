"""The packer of the head: what it reads from a checkout, what it refuses, and that the world reads what it writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from d2r_fast.bench.miniature import head, pack_head
from d2r_fast.bench.miniature.head import NAME, NEEDED_EXPRESSIONS, open_head
from d2r_fast.bench.miniature.pack_head import main, read_triangles, read_vertices
from d2r_fast.engine.errors import UserError

POINTS = np.array(
    [
        [-3, 4, 1], [-1, 4, 1], [1, 4, 1], [3, 4, 1], [0, 0, 5], [-2, -3, 1], [2, -3, 1],
        [-2, 4, 0], [2, 4, 0], [0, -3, 0], [0, -9, -9],
    ],
    np.float32,
)  # fmt: skip
"""A face of seven vertices, two sockets behind the eyes, a mouth, and one vertex of no part."""
PARTS = {"face": (0, 7), "sockets": (7, 9), "mouth": (9, 10)}
FACES = "usemtl M_Face\nf 1/9/1 2/1/9 8/2/2\nf 3//1 4//2 9//3\ns 1\nf 6/4 7/5 10/6\nf 1 6 7 4\n"
TRIANGLES = [[0, 1, 7], [2, 3, 8], [5, 6, 9], [0, 5, 6], [0, 6, 3]]


def mesh(points: np.ndarray) -> str:
    vertices = "".join(f"v {x} {y} {z}\n" for x, y, z in points.tolist())
    return f"# v 1 2 3\nmtllib a.mtl\n{vertices}vt 0.5 0.5\nvn 0 0 1\n{FACES}"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of a head of eleven vertices; identity n adds (n, 0, 0), each expression (0, its number, 0)."""
    for module in (head, pack_head):
        monkeypatch.setattr(module, "NUM_VERTICES", len(POINTS))
    monkeypatch.setattr(head, "END", 10)
    monkeypatch.setattr(head, "PARTS", PARTS)
    small = {
        name: (tuple(len(POINTS) if n > 3 else n for n in shape), kind)
        for name, (shape, kind) in head._EXPECTED.items()
    }
    monkeypatch.setattr(head, "_EXPECTED", small)
    moves: dict[str, list[int]] = {"generic_neutral_mesh": [0, 0, 0]}
    moves |= {f"identity{number:03d}": [number, 0, 0] for number in range(52)}
    moves |= {name: [0, number, 0] for number, name in enumerate(expressions())}
    folder = tmp_path / "checkout" / "FaceXModel"
    folder.mkdir(parents=True)
    for name, move in moves.items():
        (folder / f"{name}.obj").write_text(mesh(POINTS + np.array(move, np.float32)))
    (folder / "vertex_indices.json").write_text("{}")
    return folder.parent


def expressions() -> list[str]:
    """Capitals first, as a checkout's own are."""
    return sorted(NEEDED_EXPRESSIONS | {"PupilDilate_L"})


def test_a_checkout_becomes_the_file_of_a_head(checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / NAME
    assert main([str(checkout), "--out", str(out)]) == 0
    with np.load(out) as file:
        arrays = dict(file)
    assert {name: array.dtype.str for name, array in arrays.items() if name != "expression_names"} == {
        "neutral": "<f4", "triangles": "<i4", "identity_delta": "<f4", "expression_delta": "<f4",
    }  # fmt: skip
    np.testing.assert_array_equal(arrays["neutral"], POINTS)
    assert arrays["triangles"].tolist() == TRIANGLES
    assert arrays["identity_delta"].shape == (50, 11, 3)
    assert (arrays["identity_delta"] == np.arange(50)[:, None, None] * [1, 0, 0]).all()
    assert arrays["expression_names"].tolist() == expressions()
    numbers = np.arange(len(expressions()))
    assert (arrays["expression_delta"] == numbers[:, None, None] * [0, 1, 0]).all()


def test_the_world_reads_what_is_packed(checkout: Path, tmp_path: Path) -> None:
    assert main([str(checkout), "--out", str(tmp_path / NAME)]) == 0
    packed = open_head(tmp_path)
    assert packed.landmarks.tolist() == [0, 1, 2, 3, 4, 5, 6]
    jaw = expressions().index("jawOpen")
    moved = packed.shape([0.0, 0.0, 0.5], {"jawOpen": 0.5})
    np.testing.assert_array_equal(moved, POINTS[:10] + np.array([1, jaw / 2, 0], np.float32))


def test_the_same_checkout_gives_the_same_bytes(checkout: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        assert main([str(checkout), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_faces_of_other_meshes_do_not_count(checkout: Path, tmp_path: Path) -> None:
    path = checkout / "FaceXModel" / "jawOpen.obj"
    path.write_text(path.read_text().replace(FACES, ""))
    assert main([str(checkout), "--out", str(tmp_path / NAME)]) == 0


def test_lines_may_end_as_windows_ends_them(checkout: Path) -> None:
    path = checkout / "FaceXModel" / "generic_neutral_mesh.obj"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(read_vertices(path), POINTS)
    assert read_triangles(path).tolist() == TRIANGLES


def test_a_face_of_five_corners_is_cut_from_its_first(checkout: Path) -> None:
    path = checkout / "face.obj"
    path.write_text("f 2 1 3 5 4\n")
    assert read_triangles(path).tolist() == [[1, 0, 2], [1, 2, 4], [1, 4, 3]]


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / f"{name}.obj"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / f"{name}.obj").unlink()


def make_folder(folder: Path) -> None:
    remove("identity003")(folder)
    (folder / "identity003.obj").mkdir()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: folder.rename(folder.parent / "Models"), "holds no folder FaceXModel"),
        (remove("generic_neutral_mesh"), "generic_neutral_mesh.obj does not exist"),
        (remove("identity049"), "identity049.obj does not exist"),
        (remove("eyeLookUp_R"), "eyeLookUp_R.obj does not exist"),
        (make_folder, "identity003.obj cannot be read"),
        (replace("jawOpen", "v 0.0", "w 0.0"), "jawOpen.obj holds 10 vertices where the head has 11"),
        (replace("jawOpen", "mtllib", "v 1 2 3\nmtllib"), "jawOpen.obj holds 12 vertices"),
        (replace("identity000", "v 0.0 0.0 5.0", "v 0.0 x 5.0"), "not three numbers .*'x'"),
        (replace("identity000", "v 0.0 0.0 5.0", "v 0.0 5.0"), "not three numbers"),
        (replace("identity000", "v 0.0 0.0 5.0", "v 0.0 nan 5.0"), "identity000.obj holds .* not finite"),
        (replace("generic_neutral_mesh", "f 1 6 7 4", "f 1 6"), "'f 1 6', no face of vertices 1 to 11"),
        (replace("generic_neutral_mesh", "f 1 6 7 4", "f 1 6 7 12"), "'f 1 6 7 12', no face"),
        (replace("generic_neutral_mesh", "f 1 6 7 4", "f 0 6 7 4"), "'f 0 6 7 4', no face"),
        (replace("generic_neutral_mesh", "f 1 6 7 4", "f -1 -2 -3"), "'f -1 -2 -3', no face"),
        (replace("generic_neutral_mesh", "f 1 6 7 4", "f 1 6 a/7 4"), "'f 1 6 a/7 4', no face"),
        (replace("generic_neutral_mesh", FACES, ""), "holds no faces"),
    ],
)
def test_another_checkout_is_refused_in_a_line(
    checkout: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(checkout / "FaceXModel")
    with pytest.raises(UserError, match=says):
        pack_head.pack_head(checkout, tmp_path / NAME)
    assert main([str(checkout), "--out", str(tmp_path / NAME)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith("give a whole checkout of https://github.com/ICT-VGL/ICT-FaceKit\n")
    assert [path.name for path in tmp_path.iterdir()] == ["checkout"]


@pytest.mark.parametrize("out", [".", "none/head.npz"])
def test_a_place_for_no_file_is_refused_before_anything_is_read(
    checkout: Path, tmp_path: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    remove("generic_neutral_mesh")(checkout / "FaceXModel")
    assert main([str(checkout), "--out", str(tmp_path / out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "give --out a file name in a folder that exists" in said
