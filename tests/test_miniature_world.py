"""The miniature world: what is drawn by whom, where it falls in the picture, and that it shows people."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from d2r_fast.bench.miniature.camera import frame, pose, project
from d2r_fast.bench.miniature.head import (
    NAME,
    NEEDED_EXPRESSIONS,
    NUM_VERTICES,
    PARTS,
    Head,
    open_head,
)
from d2r_fast.bench.miniature.render import main, render, render_batch
from d2r_fast.bench.miniature.world import MAX_WEIGHT, SPREAD, Person, Shot, cast, stage
from d2r_fast.engine.align import TEMPLATE_112
from d2r_fast.engine.errors import UserError


def pictures(head: Head, pairs: list[tuple[int, int]], size: int = 112, **options: Any) -> torch.Tensor:
    people: list[Person] = [cast(0, identity) for identity, _ in pairs]
    shots: list[Shot] = [stage(0, identity, image) for identity, image in pairs]
    parts = [
        render_batch(head, people[i : i + 8], shots[i : i + 8], size, **options)
        for i in range(0, len(pairs), 8)
    ]
    return torch.cat(parts)


def test_draws_are_functions_of_seed_identity_and_image() -> None:
    assert cast(0, 7) == cast(0, 7)
    assert stage(0, 7, 2) == stage(0, 7, 2)
    assert len({cast(seed, identity) for seed in (0, 1) for identity in range(5)}) == 10
    shots = {stage(seed, identity, image) for seed in (0, 1) for identity in (3, 4) for image in range(3)}
    assert len(shots) == 12


def test_draws_have_the_spread_that_they_claim() -> None:
    people, shots = [cast(0, i) for i in range(150)], [stage(0, 0, i) for i in range(600)]
    coefficients = np.array([person.coefficients for person in people])
    assert coefficients.shape == (150, 50)
    assert abs(coefficients.std() - SPREAD) < 0.03
    assert abs(coefficients.mean()) < 0.03
    assert abs(np.std([shot.yaw for shot in shots]) - 0.35) < 0.04
    assert all(abs(shot.yaw) <= 1 and abs(shot.roll) <= 0.3 for shot in shots)
    assert all(math.isclose(math.hypot(*shot.light), 1) and shot.light[2] > 0 for shot in shots)
    weights = [weight for shot in shots for _, weight in shot.expressions]
    assert min(weights) >= 0
    assert 0.45 < max(weights) <= MAX_WEIGHT
    skins = np.array([person.skin for person in people])
    assert skins.min() >= 0
    assert skins.max() <= 1
    assert (skins.std(0) > 0.1).all()


def test_a_head_needs_the_expressions_that_are_drawn() -> None:
    drawn = {name for image in range(600) for name, _ in stage(0, 0, image).expressions}
    assert drawn == NEEDED_EXPRESSIONS


def test_a_turned_head_shows_where_it_is_turned_to() -> None:
    ahead = torch.tensor([[0.0, 0.0, 10.0]])
    still = replace(stage(0, 0, 0), yaw=0.0, pitch=0.0, roll=0.0)
    assert torch.equal(pose(ahead, still), ahead)
    assert pose(ahead, replace(still, yaw=0.3))[0, 0] > 2
    assert pose(ahead, replace(still, pitch=0.3))[0, 1] < -2
    assert pose(torch.tensor([[5.0, 0.0, 0.0]]), replace(still, roll=0.3))[0, 1] > 1


def test_what_is_nearer_looks_larger() -> None:
    shot = replace(stage(0, 0, 0), distance=100.0)
    far, near = project(torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 50.0]]), shot)
    assert far.tolist() == [1, -2, 1]
    assert near.tolist() == [2, -4, 2]


def test_an_aligned_crop_has_the_landmarks_on_the_template() -> None:
    shot = replace(stage(0, 0, 0), jitter=((0.0, 0.0),) * 5)
    turned = torch.from_numpy(TEMPLATE_112).double() @ torch.tensor([[0.0, 0.3], [-0.3, 0.0]]).double() + 5
    matrix = frame(turned.float(), shot, framing="aligned", size=112)
    np.testing.assert_allclose(turned @ matrix[:, :2].T + matrix[:, 2], TEMPLATE_112, atol=1e-3)
    jittered = replace(shot, jitter=((0.05, 0.0),) * 5)
    moved = frame(turned.float(), jittered, framing="aligned", size=112)
    assert not torch.allclose(moved, matrix, atol=0.1)


def test_a_picture_has_the_face_where_the_shot_says() -> None:
    shot = replace(stage(0, 0, 0), place=(0.4, 0.6, 1.0))
    points = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 3.0], [-2.0, 6.0], [2.0, 6.0]])
    matrix = frame(points, shot, framing="photo", size=200)
    middle = (points.double() @ matrix[:, :2].T + matrix[:, 2]).mean(0)
    np.testing.assert_allclose(middle, [79.5, 119.5], atol=1e-6)
    assert matrix[0, 0] == pytest.approx(200 / 36)


def test_a_portrait_is_the_crop_with_a_margin_around_it() -> None:
    points = torch.tensor([[-3.0, 0.0], [3.0, 0.3], [0.0, 3.0], [-2.0, 6.0], [2.0, 6.0]])
    shot = stage(0, 0, 0)
    crop, portrait = (frame(points, shot, framing=framing, size=112) for framing in ("aligned", "portrait"))
    placed = [points.double() @ matrix[:, :2].T + matrix[:, 2] for matrix in (crop, portrait)]
    np.testing.assert_allclose((placed[1] - 55.5) * 1.3, placed[0] - 55.5, atol=1e-9)
    middle = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5]])
    large = frame(points, shot, framing="portrait", size=224)
    np.testing.assert_allclose(large + middle, 2 * (portrait + middle))


def arrays() -> dict[str, NDArray[Any]]:
    """A head of the right shapes, of nothing but zeros."""
    names = sorted(NEEDED_EXPRESSIONS)
    return {
        "neutral": np.zeros((NUM_VERTICES, 3), np.float32), "triangles": np.zeros((4, 3), np.int32),
        "identity_delta": np.zeros((50, NUM_VERTICES, 3), np.float32),
        "expression_delta": np.zeros((len(names), NUM_VERTICES, 3), np.float32),
        "expression_names": np.array(names),
    }  # fmt: skip


def fewer(*names: str) -> Callable[[dict[str, NDArray[Any]]], None]:
    def change(given: dict[str, NDArray[Any]]) -> None:
        given.update({name: given[name][1:] for name in names})

    return change


def spoil(name: str, value: float) -> Callable[[dict[str, NDArray[Any]]], None]:
    def change(given: dict[str, NDArray[Any]]) -> None:
        given[name].flat[5] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda given: given.pop("triangles"), "lacks triangles"),
        (lambda given: given.update(neutral=np.zeros((5, 3), np.float32)), "neutral is float32"),
        (lambda given: given.update(neutral=np.zeros((NUM_VERTICES, 3), np.int32)), "neutral is int32"),
        (lambda given: given.update(triangles=np.zeros((0, 3), np.int32)), "triangles is int32"),
        (spoil("identity_delta", math.nan), "identity_delta holds values that are not finite"),
        (spoil("triangles", NUM_VERTICES), "triangles names vertices beyond"),
        (spoil("triangles", -1), "triangles names vertices beyond"),
        (lambda given: given.update(expression_names=np.array([{}])), "cannot be read"),
        (fewer("identity_delta"), "has 49 identity shapes, fewer than the 50"),
        (fewer("expression_delta"), "has [0-9]+ expression shapes and [0-9]+ names"),
        (fewer("expression_delta", "expression_names"), "lacks the expressions browDown_L: give"),
    ],
)
def test_another_file_is_no_head(
    tmp_path: Path, change: Callable[[dict[str, NDArray[Any]]], None], says: str
) -> None:
    given = arrays()
    change(given)
    np.savez(tmp_path / NAME, **given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=says) as error:
        open_head(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY"])
def test_a_damaged_file_is_no_head(tmp_path: Path, data: bytes) -> None:
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(UserError, match="cannot be read"):
        open_head(tmp_path / NAME)


@pytest.mark.parametrize(
    "options",
    [
        ["--identities", "0"],
        ["--images", "0"],
        ["--size", "8"],
        ["--seed", "-1"],
        ["--first-identity", "-1"],
        [],
    ],
)
def test_the_command_says_in_a_line_what_cannot_be(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.npz"), "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "give" in said
    assert ("none.npz does not exist" in said) == (not options)


def test_the_head_is_whole(head: Head) -> None:
    assert len(head.identity) == 50
    assert set(head.expression_names) >= NEEDED_EXPRESSIONS
    assert head.triangles.max() < len(head.neutral)
    left, right, nose, left_mouth, right_mouth = head.five_points(head.neutral)
    assert left[0] < left_mouth[0] < nose[0] < right_mouth[0] < right[0]
    assert left[1] > nose[1] > left_mouth[1]
    assert nose[2] == head.neutral[: PARTS["face"][1], 2].max()
    torch.testing.assert_close(left * torch.tensor([-1, 1, 1]), right, atol=0.01, rtol=0)


def test_normals_equal_a_plain_sum(head: Head) -> None:
    vertices = head.shape(cast(0, 1).coefficients, {"jawOpen": 0.5})
    corners = vertices.double().numpy()[head.triangles.numpy()]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros((len(vertices), 3))
    for corner in range(3):
        np.add.at(total, head.triangles[:, corner].numpy(), across)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    drawn = length[:, 0] > 1e-4
    got = head.normals(vertices).numpy()
    np.testing.assert_allclose(got[drawn], (total / np.maximum(length, 1e-12))[drawn], atol=2e-3)
    assert got[head.landmarks[4], 2] > 0.8


def test_a_shape_is_the_sum_of_its_parts(head: Head) -> None:
    nothing = head.shape([0.0] * 50, {})
    torch.testing.assert_close(nothing, head.neutral)
    smile = head.expression_names.index("mouthSmile_L")
    moved = head.shape([0.0, 2.0], {"mouthSmile_L": 0.5, "jawOpen": 0.0})
    want = head.neutral + (2 * head.identity[1] + 0.5 * head.expression[smile]).view(-1, 3)
    torch.testing.assert_close(moved, want, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="51 coefficients for 50 identity shapes"):
        head.shape([0.0] * 51, {})
    with pytest.raises(ValueError, match="not in tuple"):
        head.shape([0.0], {"wink": 0.5})


def test_a_render_is_the_same_in_any_batch(head: Head) -> None:
    pairs = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 5)]
    whole = pictures(head, pairs)
    assert whole.shape == (5, 112, 112, 3)
    assert whole.dtype == torch.uint8
    assert torch.equal(whole, pictures(head, pairs))
    for i in (0, 3, 4):
        assert torch.equal(pictures(head, [pairs[i]])[0], whole[i])
    assert torch.equal(pictures(head, pairs[::-1]), whole.flip(0))


def test_the_face_has_no_holes(head: Head) -> None:
    """Before a loud background, the middle of a frontal face shows nothing of it."""
    loud = replace(
        stage(0, 0, 0), yaw=0.0, pitch=0.0, roll=0.0, expressions=(("jawOpen", 0.5),),
        backdrop=((0.0, 1.0, 0.0), (0.0, 1.0, 0.0)),
    )  # fmt: skip
    people = [cast(0, i) for i in range(6)]
    images = render_batch(head, people, [loud] * 6, 224).int()
    green = (images[..., 1] - images[..., [0, 2]].amax(-1)) > 120
    assert green.any()
    assert not green[:, 60:200, 70:154].any()


def test_a_folder_holds_the_same_pictures(facekit: Path, head: Head, tmp_path: Path) -> None:
    render(facekit, tmp_path / "all", identities=range(3, 5), images_per_identity=2)
    render(facekit, tmp_path / "part", identities=range(4, 5), images_per_identity=1)
    names = sorted(str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*.png"))
    assert names == ["3/0.png", "3/1.png", "4/0.png", "4/1.png"]
    assert (tmp_path / "all/4/0.png").read_bytes() == (tmp_path / "part/4/0.png").read_bytes()
    want = pictures(head, [(3, 0), (3, 1), (4, 0), (4, 1)]).numpy()
    for name, picture in zip(names, want, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "all" / name)), picture)


def test_a_size_without_a_template_is_refused(facekit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no landmark template"):
        render(facekit, tmp_path, identities=range(1), images_per_identity=1, size=100)
    assert not list(tmp_path.iterdir())


def test_a_detector_finds_the_faces_and_their_landmarks(head: Head) -> None:
    from d2r_fast.engine.mtcnn import MTCNN

    pairs = [(identity, image) for identity in range(10) for image in range(2)]
    faces = MTCNN()(pictures(head, pairs, 256, framing="photo"))
    offsets = []
    for (identity, image), found in zip(pairs, faces, strict=True):
        shot = stage(0, identity, image)
        shape = head.shape(cast(0, identity).coefficients, dict(shot.expressions))
        points = project(pose(head.five_points(shape), shot), shot)[:, :2]
        matrix = frame(points, shot, framing="photo", size=256)
        true = (points.double() @ matrix[:, :2].T + matrix[:, 2]).numpy()
        if len(found):
            offsets.append((found.landmarks[0] - true) / np.linalg.norm(true[1] - true[0]))
    assert len(offsets) >= 18
    assert np.abs(np.median(offsets, axis=0)).max() < 0.12


def test_people_are_told_apart_by_a_network_that_never_saw_them(head: Head, shared: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(shared / "weights" / "foamliu_MobileFaceNet.onnx"))
    images = pictures(head, [(identity, image) for identity in range(12) for image in range(4)])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rows = ((images / 255 - mean) / std).permute(0, 3, 1, 2).numpy()
    name = session.get_inputs()[0].name
    embeddings = np.concatenate([np.asarray(session.run(None, {name: row[None]})[0]) for row in rows])
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.triu_indices(48, 1)
    scores, same = (embeddings @ embeddings.T)[first, second], first // 4 == second // 4
    area = (scores[same][:, None] > scores[~same]).mean()
    assert area > 0.9
    colour = images[:, 40:90, 30:82].float().mean((1, 2)).numpy()
    distance = -np.linalg.norm(colour[first] - colour[second], axis=1)
    assert (distance[same][:, None] > distance[~same]).mean() < area - 0.05
