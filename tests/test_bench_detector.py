"""The detector's baseline finds what facenet-pytorch and the batched detector find, so times are of equal work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from d2r_fast.bench.detector_section import SAME_PIXELS, largest_difference, read_images
from d2r_fast.bench.plain_mtcnn import PlainMTCNN
from d2r_fast.engine.detect import Faces
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.mtcnn import MTCNN
from d2r_fast.engine.samples import cast, draw, stage

GOLDEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "mtcnn_faces.json").read_text()
)["faces"]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Drawn faces of 256 pixels, one image with none."""
    pictures = [np.asarray(draw(cast(n), stage(n, 0), 256)) for n in range(4)]
    return torch.from_numpy(np.stack([*pictures, np.full_like(pictures[0], 90)]))


@pytest.mark.parametrize("min_face_size", [20, 100])
@pytest.mark.parametrize("together", [False, True])
def test_both_detectors_find_the_same_boxes(images: torch.Tensor, min_face_size: int, together: bool) -> None:
    plain = PlainMTCNN(min_face_size=min_face_size, together=together)(images)
    ours = MTCNN(min_face_size=min_face_size)(images)
    assert [len(faces) for faces in ours] == [1, 1, 1, 1, 0]
    assert largest_difference(ours, plain) <= SAME_PIXELS
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a.landmarks, b.landmarks, rtol=0, atol=SAME_PIXELS)
        np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=1e-5)


def test_photographs_give_facenet_pytorchs_faces(shared: Path) -> None:
    detector = PlainMTCNN(min_face_size=60)
    for name in [name for name in GOLDEN["60"] if name.startswith("faces/")][:3]:
        with Image.open(shared / name) as image:
            (faces,) = detector(torch.from_numpy(np.array(image.convert("RGB")))[None])
        assert len(faces) == len(GOLDEN["60"][name]["scores"])
        np.testing.assert_allclose(faces.boxes, GOLDEN["60"][name]["boxes"], rtol=0, atol=0.05)


def faces(*boxes: tuple[float, float, float, float]) -> Faces:
    num = len(boxes)
    array = np.array(boxes, np.float32).reshape(num, 4)
    return Faces(array, np.ones(num, np.float32), np.zeros((num, 5, 2), np.float32))


def test_unequal_work_is_not_timed() -> None:
    a, b = (0.0, 0.0, 9.0, 9.0), (0.0, 0.0, 9.0, 9.0005)
    assert largest_difference([faces(a), faces()], [faces(b), faces()]) == pytest.approx(0.0005, rel=1e-3)
    with pytest.raises(RunError, match="different faces"):
        largest_difference([faces(a)], [faces(a, b)])
    with pytest.raises(RunError, match="boxes differ by 1 pixels"):
        largest_difference([faces(a)], [faces((0.0, 0.0, 9.0, 10.0))])


def test_a_folder_of_images_is_read_and_repeated(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds none of"):
        read_images(tmp_path)
    for level in (10, 200):
        Image.new("RGB", (30, 40), (level, level, level)).save(tmp_path / f"{level}.png")
    images = read_images(tmp_path)
    assert images.shape == (64, 512, 512, 3)
    assert images[:3, 0, 0, 0].tolist() == [10, 200, 10]
