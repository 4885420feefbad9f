"""Faces, the detectors by name, and the one that needs no weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from d2r_fast.engine.align import TEMPLATE_112, similarity
from d2r_fast.engine.detect import fill, find_by_template, load_detector, sort_faces
from d2r_fast.engine.errors import UserError


def load(name: str, models: Path, device: str = "cpu") -> object:
    return load_detector(name, models_dir=models, device=device, min_face_size=20)


def test_faces_come_largest_first_and_together() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 9, 9], [5, 5, 7, 7]], np.float32)
    landmarks = np.arange(30, dtype=np.float32).reshape(3, 5, 2)
    faces = sort_faces(boxes, np.array([0.1, 0.2, 0.3], np.float32), landmarks)
    assert len(faces) == 3
    np.testing.assert_array_equal(faces.scores, np.array([0.2, 0.1, 0.3], np.float32))
    np.testing.assert_array_equal(faces.boxes, boxes[[1, 0, 2]])
    np.testing.assert_array_equal(faces.landmarks, landmarks[[1, 0, 2]])
    assert {part.dtype for part in (faces.boxes, faces.scores, faces.landmarks)} == {np.dtype(np.float32)}


def test_template_finds_one_face_in_every_image(tmp_path: Path) -> None:
    detector = load_detector("template", models_dir=tmp_path, device="cpu", min_face_size=20)
    found = detector(torch.zeros(3, 128, 128, 3, dtype=torch.uint8))
    assert [len(faces) for faces in found] == [1, 1, 1]
    np.testing.assert_array_equal(found[0].scores, [1])
    np.testing.assert_array_equal(found[0].boxes, [[0, 0, 128, 128]])
    np.testing.assert_allclose(found[0].landmarks[0, 0], [192.98138 / 4, 239.94708 / 4], rtol=1e-6)


def test_template_is_a_level_face_that_fits_the_alignment() -> None:
    """The framing maps onto the recognition template by a scale and a shift, to about two pixels."""
    (faces,) = find_by_template(torch.zeros(1, 512, 512, 3, dtype=torch.uint8))
    matrix = similarity(torch.from_numpy(faces.landmarks))[0].numpy()
    aligned = faces.landmarks[0] @ matrix[:, :2].T + matrix[:, 2]
    assert abs(matrix[1, 0] / matrix[0, 0]) < 0.02
    assert np.abs(aligned - TEMPLATE_112).max() < 2.5


def test_template_keeps_its_shape_in_a_wide_image() -> None:
    (square,) = find_by_template(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    (wide,) = find_by_template(torch.zeros(1, 64, 100, 3, dtype=torch.uint8))
    np.testing.assert_allclose(wide.landmarks, square.landmarks + np.array([18, 0]), rtol=1e-6)
    np.testing.assert_array_equal(wide.boxes, [[18, 0, 82, 64]])


def test_an_unknown_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give mtcnn, scrfd or template"):
        load("retinaface", tmp_path)


def test_scrfd_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scrfd_10g_bnkps\.onnx is missing"):
        load("scrfd", tmp_path)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 8, 8, 3),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 0, 8, 3, dtype=torch.uint8),
    ],
)
def test_other_arrays_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"give uint8 \(N, H, W, 3\)"):
        find_by_template(images)


def test_fill_repeats_the_last() -> None:
    rows = torch.arange(10).view(5, 2)
    assert fill(rows, 4).tolist() == [*rows.tolist(), *[[8, 9]] * 3]
    assert fill(rows, 5) is rows
