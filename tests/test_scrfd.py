"""SCRFD's rules on a graph that sees a face wherever a pixel at an anchor is white."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from d2r_fast.engine.detect import Detector, load_detector
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.scrfd import SCRFD, letterbox

SIZE = 64
BOX = np.array([10, 12, 14, 20], np.float32)
"""Every face reaches this far left, up, right and down of its anchor, in pixels of the network's input."""
POINTS = np.array([[-5, -6], [5, -6], [0, 0], [-4, 7], [4, 7]], np.float32)


def make_graph(
    path: Path, *, batched: bool, num_points: int = 5, strides: tuple[int, ...] = (8, 16, 32)
) -> Path:
    """Writes a graph whose first anchor of a place scores its pixel's level / 255, and whose second scores 0.

    Both always give the same box and points. Outputs are (N, R, values) if batched, else (R, values).
    """
    body = [
        "start = Constant<value_ints=[0, 0, 0]>()",
        f"end = Constant<value_ints=[1, {SIZE}, {SIZE}]>()",
        "axes = Constant<value_ints=[1, 2, 3]>()",
        "column = Constant<value_ints=[0, -1, 1]>()",
        f"half = Constant<value_floats=[{127.5 / 255}]>()",
        f"slope = Constant<value_floats=[{128 / 255}]>()",
        "nought = Constant<value_floats=[0.0]>()",
    ]
    for s in strides:
        body += [
            f"step{s} = Constant<value_ints=[1, {s}, {s}]>()",
            f"pixel{s} = Slice(image, start, end, axes, step{s})",
            f"scaled{s} = Mul(pixel{s}, slope)",
            f"level{s} = Add(scaled{s}, half)",
            f"first{s} = Reshape(level{s}, column)",
            f"second{s} = Mul(first{s}, nought)",
            f"both{s} = Concat<axis=2>(first{s}, second{s})",
            f"score{s} = Reshape(both{s}, column)",
            f"zero{s} = Mul(score{s}, nought)",
        ]
        values = {
            "score": [0.0],
            "box": (BOX / s).tolist(),
            "points": (POINTS[:num_points] / s).ravel().tolist(),
        }
        for kind, value in values.items():
            body += [
                f"value_{kind}{s} = Constant<value_floats={value}>()",
                f"rows_{kind}{s} = Add({'score' if kind == 'score' else 'zero'}{s}, value_{kind}{s})",
                f"shape_{kind}{s} = Constant<value_ints=[{'0, ' if batched else ''}-1, {len(value)}]>()",
                f"out_{kind}{s} = Reshape(rows_{kind}{s}, shape_{kind}{s})",
            ]
    outputs = ", ".join(f"float[] out_{kind}{s}" for kind in ("score", "box", "points") for s in strides)
    head = f"scrfd (float[{'N' if batched else 1}, 3, {SIZE}, {SIZE}] image) => ({outputs})"
    text = f'<ir_version: 10, opset_import: ["" : 17]> {head} {{ {" ".join(body)} }}'.replace(
        "float[*]", "float[]"
    )
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture(params=[False, True], ids=["one by one", "batched"])
def detector(request: pytest.FixtureRequest, tmp_path: Path) -> SCRFD:
    found = SCRFD(make_graph(tmp_path / "scrfd.onnx", batched=request.param), size=SIZE)
    assert found.batched == request.param
    return found


def lit(places: list[tuple[int, int, int]], height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    """A black image uint8 (H, W, 3) with grey pixels (x, y, level)."""
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    for x, y, level in places:
        image[y, x] = level
    return image


def test_a_face_is_where_its_anchor_says(detector: SCRFD) -> None:
    """(40, 24) is an anchor of stride 8 alone."""
    (faces,) = detector(lit([(40, 24, 255)])[None])
    np.testing.assert_allclose(faces.scores, [1], rtol=1e-6)
    np.testing.assert_allclose(faces.boxes, [[30, 12, 54, 44]], rtol=1e-6)
    np.testing.assert_allclose(faces.landmarks, [POINTS + np.array([40, 24])], rtol=1e-6)


def test_every_stride_is_read_and_agrees(detector: SCRFD) -> None:
    """(32, 32) is an anchor of all three strides: one face, thrice found, once kept."""
    (faces,) = detector(lit([(32, 32, 255)])[None])
    np.testing.assert_allclose(faces.boxes, [[22, 20, 46, 52]], rtol=1e-6)


@pytest.mark.parametrize(("level", "num_faces"), [(126, 0), (129, 1)])
def test_a_face_scores_at_least_one_half(detector: SCRFD, level: int, num_faces: int) -> None:
    assert len(detector(lit([(8, 8, level)])[None])[0]) == num_faces


def test_of_faces_that_overlap_the_best_is_kept(detector: SCRFD) -> None:
    """Boxes of 25 x 33 (with the border of one): 8 right they share 0.52, 16 right 0.22 of their union."""
    (faces,) = detector(lit([(8, 40, 200), (16, 40, 255), (32, 40, 220)])[None])
    np.testing.assert_allclose(sorted(faces.scores), [220 / 255, 1], rtol=1e-6)


def test_boxes_overlap_as_pixels_do(detector: SCRFD) -> None:
    """Sides count one pixel more than they measure, in pixels of the image: here 6.4 times those inside.

    The diagonal lights anchors (24, 24) and (32, 32) alone; boxes of 3.75 x 5, 1.25 apart both ways, share a
    third of their union, or 0.41 when they count as 4.75 x 6.
    """
    speck = lit([(3, 3, 255), (4, 4, 255), (5, 5, 255)], 10, 10)
    (faces,) = detector(speck[None])
    np.testing.assert_allclose(faces.scores, [0.56], atol=0.01)


def test_a_batch_is_as_its_images(detector: SCRFD) -> None:
    images = torch.stack([lit([(8 * index, 40, 255)] if index != 2 else []) for index in range(6)])
    found = detector(images)
    assert [len(faces) for faces in found] == [1, 1, 0, 1, 1, 1]
    for faces, image in zip(found, images, strict=True):
        (alone,) = detector(image[None])
        np.testing.assert_array_equal(faces.boxes, alone.boxes)
        np.testing.assert_array_equal(faces.landmarks, alone.landmarks)
    assert detector(images[:0]) == []


@pytest.mark.parametrize(("height", "width"), [(128, 128), (128, 96), (96, 128)])
def test_faces_come_back_in_pixels_of_the_image(detector: SCRFD, height: int, width: int) -> None:
    """Half the size inside: a white patch around (48, 64) lies on the anchor (24, 32)."""
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    image[:, 62:68, 46:52] = 255
    (faces,) = detector(image)
    np.testing.assert_allclose(faces.boxes, [[28, 40, 76, 104]], rtol=1e-6)
    np.testing.assert_allclose(faces.landmarks, [2 * POINTS + np.array([48, 64])], rtol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "new_height", "new_width"),
    [
        (480, 640, 48, 64),
        (640, 480, 64, 48),
        (333, 517, 41, 64),
        (100, 7, 64, 4),
        (64, 64, 64, 64),
        (3, 900, 1, 64),
    ],
)
def test_letterbox_is_opencvs_resize_at_the_top_left(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    """OpenCV interpolates in fixed point: one level. The scale is that of the height."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    inputs, scale = letterbox(torch.from_numpy(image)[None], SIZE)
    levels = (inputs[0] * 128 + 127.5).permute(1, 2, 0).numpy()
    want = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    assert scale == new_height / height
    assert np.abs(levels[:new_height, :new_width] - want).max() <= 1
    np.testing.assert_array_equal(levels, levels.round())
    assert not levels[new_height:].any()
    assert not levels[:, new_width:].any()


def test_it_is_read_from_the_model_folder(tmp_path: Path) -> None:
    """At its usual 640 pixels, which this graph of 64 does not take."""
    (tmp_path / "antelopev2").mkdir()
    make_graph(tmp_path / "antelopev2" / "scrfd_10g_bnkps.onnx", batched=False)

    def load() -> Detector:
        return load_detector("scrfd", models_dir=tmp_path, device="cpu", min_face_size=20)

    with pytest.raises(UserError, match=r"takes \[\[1, 3, 64, 64\]\] .* not an SCRFD"):
        load()


def test_without_keypoints_it_is_refused(tmp_path: Path) -> None:
    path = make_graph(tmp_path / "scrfd.onnx", batched=False, num_points=4)
    with pytest.raises(UserError, match="not an SCRFD with keypoints") as error:
        SCRFD(path, size=SIZE)
    assert "\n" not in str(error.value)


def test_other_strides_are_refused(tmp_path: Path) -> None:
    path = make_graph(tmp_path / "scrfd.onnx", batched=True, strides=(16, 32, 64))
    with pytest.raises(UserError, match="strides 8, 16 and 32"):
        SCRFD(path, size=SIZE)


def test_six_outputs_are_refused(tmp_path: Path) -> None:
    path = make_graph(tmp_path / "scrfd.onnx", batched=False, strides=(8, 16))
    with pytest.raises(UserError, match="gives 6 outputs"):
        SCRFD(path, size=SIZE)


def test_a_missing_provider_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_graph(tmp_path / "scrfd.onnx", batched=False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match=r"cannot run on cuda:0.*pip install"):
        SCRFD(path, device="cuda:0", size=SIZE)
