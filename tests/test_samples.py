"""The drawn renders: the same every time, each identity itself in every picture, nobody like another."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2r_fast.engine.canvas import LANDMARKS, MIDDLE, Canvas, View, curve, ellipse
from d2r_fast.engine.detect import load_detector
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.samples import AGES, cast, draw, draw_samples, stage
from d2r_fast.engine.source import open_source

ARCFACE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "renders"
    draw_samples(folder, num_identities=3, images_per_identity=3)
    return folder


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_layout_is_that_of_a_render_source(drawn: Path) -> None:
    source = open_source(drawn)
    assert [identity.name for identity in source.identities] == ["0", "1", "2"]
    for identity in source.identities:
        assert [image.name for image in identity.images] == ["0.png", "1.png", "2.png"]
        for image in identity.images:
            with Image.open(image.path) as picture:
                assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (112, 112))
    assert {path.name for path in drawn.iterdir()} == {"0", "1", "2"}


def test_pictures_depend_on_identity_and_image_alone(drawn: Path, tmp_path: Path) -> None:
    draw_samples(tmp_path, num_identities=2, images_per_identity=2)
    for name in ("0/0.png", "0/1.png", "1/0.png", "1/1.png"):
        assert (tmp_path / name).read_bytes() == (drawn / name).read_bytes()


def test_global_random_state_plays_no_part(drawn: Path) -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    np.testing.assert_array_equal(np.asarray(draw(cast(1), stage(1, 2), 112)), read(drawn / "1" / "2.png"))
    assert np.random.get_state()[1].tolist() == before


def test_no_two_pictures_are_alike(drawn: Path) -> None:
    pictures = [read(path).astype(float) for path in sorted(drawn.glob("*/*.png"))]
    for first, second in combinations(pictures, 2):
        assert np.abs(first - second).mean() > 4


def test_identities_differ_more_than_their_pictures(drawn: Path) -> None:
    """In the colours of the face itself, where light and background count least."""
    faces = np.array(
        [[read(drawn / f"{i}/{k}.png")[36:100, 32:80].mean((0, 1)) for k in range(3)] for i in range(3)]
    )
    within = faces.std(axis=1).mean()
    between = faces.mean(axis=1).std(axis=0).mean()
    assert between > 1.5 * within


def test_everyone_is_somebody_else() -> None:
    people = [cast(identity) for identity in range(40)]
    looks = {(p.skin, p.hair, p.hair_style, p.beard, p.age, p.jaw, p.nose) for p in people}
    assert len(looks) == 40
    dozen = people[: len(AGES)]
    assert len({person.skin for person in dozen}) == len(dozen)
    assert max(sum(person.skin) for person in dozen) > 3 * min(sum(person.skin) for person in dozen)
    assert {person.hair_style for person in dozen} >= {
        "afro",
        "long",
        "bob",
        "scarf",
        "bald",
        "curls",
        "locs",
    }
    assert max(person.age for person in dozen) > 0.8


def test_same_person_in_every_shot_and_every_shot_another() -> None:
    assert cast(5) == cast(5)
    shots = [stage(5, image) for image in range(12)]
    assert len({shot.view for shot in shots}) == 12
    assert {shot.accessory for shot in shots} == {"none", "glasses", "beanie"}


def test_frontal_face_lies_on_the_arcface_template() -> None:
    canvas = Canvas(View(), 112, Image.new("RGB", (8, 8)))
    placed = canvas.pixels(canvas.turn(LANDMARKS)) / canvas.scale
    np.testing.assert_allclose(placed, ARCFACE, atol=1.0)
    np.testing.assert_allclose(LANDMARKS + MIDDLE, ARCFACE, atol=1.0)


@pytest.mark.parametrize("identity", range(7))
def test_turned_faces_stay_near_the_template(identity: int) -> None:
    for image in range(6):
        canvas = Canvas(stage(identity, image).view, 112, Image.new("RGB", (8, 8)))
        placed = canvas.pixels(canvas.turn(LANDMARKS)) / canvas.scale
        assert np.abs(placed - ARCFACE).mean() < 6
        np.testing.assert_allclose(placed.mean(axis=0), ARCFACE.mean(axis=0), atol=2)


def test_eyes_are_where_they_should_be() -> None:
    """The pupils are dark and the cheeks below them are not."""
    picture = np.asarray(draw(cast(1), stage(1, 2), 112)).astype(float).mean(axis=2)
    canvas = Canvas(stage(1, 2).view, 112, Image.new("RGB", (8, 8)))
    eyes = canvas.pixels(canvas.turn(LANDMARKS[:2])) / canvas.scale
    for x, y in eyes.round().astype(int):
        assert picture[y - 4 : y + 3, x - 3 : x + 4].min() < 60
        assert picture[y + 14, x - 2 : x + 3].min() > 110


def test_a_face_detector_finds_one_face_in_each_drawing(drawn: Path, tmp_path: Path) -> None:
    detect = load_detector("mtcnn", models_dir=tmp_path, device="cpu", min_face_size=20)
    pictures = np.stack([read(path) for path in sorted(drawn.glob("*/*.png"))])
    found = detect(torch.from_numpy(pictures))
    assert [len(faces.scores) for faces in found] == [1] * len(pictures)
    landmarks = np.stack([faces.landmarks[0] for faces in found])
    assert np.abs(landmarks.mean(axis=0) - ARCFACE).max() < 5


def test_size_is_asked_for() -> None:
    small, large = (np.asarray(draw(cast(3), stage(3, 0), size)) for size in (56, 112))
    assert small.shape == (56, 56, 3)
    halved = np.asarray(Image.fromarray(large).resize((56, 56), Image.Resampling.BOX)).astype(float)
    assert np.abs(small - halved).mean() < 6


@pytest.mark.parametrize("counts", [{"num_identities": 0}, {"images_per_identity": -1}, {"size": 8}])
def test_impossible_counts_are_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(UserError, match="give 1 or more"):
        draw_samples(tmp_path / "out", **counts)
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file or lies in one: give a folder"):
        draw_samples(tmp_path / "file", num_identities=1, images_per_identity=1)
    assert (tmp_path / "file").read_text() == "mine"


def test_curves_pass_through_their_points() -> None:
    points = np.array([[0.0, 0.0], [2.0, 1.0], [3.0, 4.0]])
    path = curve(points)
    for point in points:
        assert np.abs(path - point).sum(axis=1).min() < 1e-12
    ring = ellipse(1, 2, 3, 4)
    np.testing.assert_allclose(((ring - [1, 2]) / [3, 4]) ** 2 @ [1, 1], 1)
