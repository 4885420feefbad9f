"""MTCNN against facenet-pytorch, the public implementation whose rules it follows."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from d2r_fast.engine import mtcnn, mtcnn_networks
from d2r_fast.engine.detect import Faces, load_detector
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.mtcnn import MTCNN, pyramid
from d2r_fast.engine.mtcnn_networks import PNET, build, load_networks

GOLDEN: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "golden" / "mtcnn_faces.json").read_text()
)["faces"]


@pytest.fixture(scope="module")
def detector() -> MTCNN:
    return MTCNN()


def read(path: Path) -> torch.Tensor:
    """uint8 (1, H, W, 3)."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))[None]


def squares(shared: Path, side: int = 256) -> torch.Tensor:
    """The top squares of all photographs: uint8 (7, side, side, 3), with nine faces or so."""
    tiles = []
    for name in sorted(path for path in GOLDEN["20"] if path.startswith("faces/")):
        with Image.open(shared / name) as image:
            width = min(image.size)
            tiles.append(np.array(image.convert("RGB").resize((side, side), box=(0, 0, width, width))))
    return torch.from_numpy(np.stack(tiles))


def check_same(faces: Faces, golden: dict[str, Any]) -> None:
    """As many faces in the same order, each to a twentieth of a pixel (asked for: IoU 0.95, 1.5 pixels)."""
    assert len(faces) == len(golden["scores"])
    if len(faces):
        np.testing.assert_allclose(faces.boxes, golden["boxes"], rtol=0, atol=0.05)
        np.testing.assert_allclose(faces.landmarks, golden["landmarks"], rtol=0, atol=0.05)
        np.testing.assert_allclose(faces.scores, golden["scores"], rtol=0, atol=1e-3)


def assert_equal(a: Faces, b: Faces) -> None:
    for name in ("boxes", "scores", "landmarks"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def reference_weights(state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """facenet-pytorch's state in our order: layers, then one head of box, landmarks and logits.

    Its fully connected layers read the last feature map as (width, height, channels).
    """
    layers = [value for name, value in state.items() if not name.startswith(("conv4_", "dense5_", "dense6_"))]
    layers = [
        value.view(len(value), 3, 3, -1).permute(0, 3, 2, 1) if value.ndim == 2 else value for value in layers
    ]
    names = sorted(
        {name.split(".")[0] for name in state if name.startswith(("conv4_", "dense5_", "dense6_"))}
    )
    heads = names[1:] + names[:1]
    kernels = [state[f"{name}.weight"].flatten(1)[..., None, None] for name in heads]
    return [*layers, torch.cat(kernels), torch.cat([state[f"{name}.bias"] for name in heads])]


@pytest.mark.parametrize("index", [0, 1, 2], ids=["pnet", "rnet", "onet"])
def test_the_package_carries_facenet_pytorchs_weights(shared: Path, index: int) -> None:
    state = torch.load(shared / "weights" / f"mtcnn_{'pro'[index]}net.pt", weights_only=True)
    ours = list(load_networks()[index].parameters())
    theirs = reference_weights(state)
    assert [tuple(value.shape) for value in ours] == [tuple(value.shape) for value in theirs]
    # O-Net's head stands as box, landmarks, logits here, and there as logits, box, landmarks.
    assert max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) == 0


@pytest.mark.parametrize("min_face_size", [20, 60, 200])
def test_photographs_give_facenet_pytorchs_faces(shared: Path, min_face_size: int) -> None:
    detector = MTCNN(min_face_size=min_face_size)
    photographs = [name for name in GOLDEN[str(min_face_size)] if name.startswith("faces/")]
    assert len(photographs) == 7
    for name in photographs:
        (faces,) = detector(read(shared / name))
        check_same(faces, GOLDEN[str(min_face_size)][name])


def test_renders_give_facenet_pytorchs_faces_in_one_batch(shared: Path, detector: MTCNN) -> None:
    renders = [name for name in GOLDEN["20"] if name.startswith("digiface-mini/")]
    assert len(renders) == 62
    found = detector(torch.cat([read(shared / name) for name in renders]))
    for faces, name in zip(found, renders, strict=True):
        check_same(faces, GOLDEN["20"][name])


def test_an_image_does_not_depend_on_its_neighbours(shared: Path, detector: MTCNN) -> None:
    """Bit for bit: alone, in another order, in batches of other sizes, beside blank images."""
    images = squares(shared)
    alone = [detector(image[None])[0] for image in images]
    assert sum(len(faces) for faces in alone) >= 8
    blank = torch.zeros_like(images[:2])
    for order in ([6, 5, 4, 3, 2, 1, 0], [2, 0], [3, 3, 3, 1, 5]):
        found = detector(torch.cat([blank, images[order], blank[:1]]))
        assert [len(faces) for faces in (*found[:2], found[-1])] == [0, 0, 0]
        for faces, index in zip(found[2:-1], order, strict=True):
            assert_equal(faces, alone[index])


def test_every_run_of_a_network_on_images_of_one_size_has_one_batch(
    shared: Path, detector: MTCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of a convolution depend on the batch's size; most of them are lost before they show."""
    batches: dict[str, dict[tuple[int, ...], set[int]]] = {"pnet": {}, "rnet": {}, "onet": {}}

    def spy(name: str, network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        batches[name].setdefault(tuple(inputs.shape[1:]), set()).add(len(inputs))
        out: torch.Tensor = network(inputs)
        return out

    for name in batches:
        monkeypatch.setattr(detector, name, partial(spy, name, getattr(detector, name)))
    for num_images in (1, 3, 6):
        detector(squares(shared, 128)[:num_images])
    assert len(batches["pnet"]) >= 4, "a pyramid"
    assert all(len(seen) == 1 for seen in batches["pnet"].values())
    assert batches["rnet"] == {(3, 24, 24): {mtcnn.R_BATCH}}
    assert batches["onet"] == {(3, 48, 48): {mtcnn.O_BATCH}}


def test_memory_is_bounded_without_a_trace(
    shared: Path, detector: MTCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = squares(shared)
    together = detector(images)
    monkeypatch.setattr(mtcnn, "MAX_PIXELS", 256 * 256 * 4)
    for a, b in zip(detector(images), together, strict=True):
        assert_equal(a, b)


def test_threads_may_share_a_detector(shared: Path, detector: MTCNN) -> None:
    images = squares(shared)
    together = detector(images)
    with ThreadPoolExecutor(4) as pool:
        for (faces,), want in zip(pool.map(detector, torch.split(images, 1)), together, strict=True):
            assert_equal(faces, want)


def test_detection_repeats(shared: Path, detector: MTCNN) -> None:
    images = squares(shared)[:2]
    for a, b in zip(detector(images), detector(images.clone()), strict=True):
        assert_equal(a, b)


def test_a_larger_least_face_leaves_small_ones_out(shared: Path) -> None:
    """The astronaut's face is about 110 pixels high."""
    image = read(shared / "faces" / "skimage_astronaut.png")
    assert len(MTCNN(min_face_size=90)(image)[0]) == 1
    assert len(MTCNN(min_face_size=400)(image)[0]) == 0


def test_faces_come_largest_first(shared: Path, detector: MTCNN) -> None:
    (faces,) = detector(read(shared / "faces" / "ageitgey_obama_and_biden.jpg"))
    area = np.prod(faces.boxes[:, 2:] - faces.boxes[:, :2], 1)
    assert len(faces) == 4
    assert (np.diff(area) < 0).all()


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_blank_image_has_no_face(detector: MTCNN, level: int) -> None:
    (faces,) = detector(torch.full((1, 96, 120, 3), level, dtype=torch.uint8))
    assert (faces.boxes.shape, faces.scores.shape, faces.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
    assert faces.boxes.dtype == faces.scores.dtype == faces.landmarks.dtype == np.float32


def test_noise_has_no_face(detector: MTCNN) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 128, 128, 3), dtype=torch.uint8, generator=generator)
    assert [len(faces) for faces in detector(noise)] == [0, 0, 0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (12, 12), (19, 300), (20, 20), (21, 20), (300, 20)])
def test_small_and_thin_images_have_no_face(detector: MTCNN, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, *shape, 3), dtype=torch.uint8, generator=generator)
    assert [len(faces) for faces in detector(images)] == [0, 0]


def test_no_images_no_faces(detector: MTCNN) -> None:
    assert detector(torch.zeros(0, 64, 64, 3, dtype=torch.uint8)) == []


def test_the_pyramid_ends_at_twelve_pixels() -> None:
    assert pyramid(19, 500, 20) == []
    assert pyramid(20, 500, 20) == [0.6]
    assert pyramid(112, 112, 20) == pytest.approx([0.6 * 0.709**level for level in range(6)])
    assert pyramid(30, 30, 12) == pytest.approx([1, 0.709, 0.709**2])


class Everywhere(nn.Module):
    """A P- or R-Net that sees a face in every place it looks at, and asks for no correction."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        num, _, height, width = inputs.shape
        side = (max(height // 2 - 5, 1), max(width // 2 - 5, 1)) if height not in (24, 48) else (1, 1)
        out = torch.zeros(num, 6, *side)
        out[:, 5] = 9
        return out


def test_noise_that_passes_every_stage_is_bounded(detector: MTCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of candidates per image, some at its very edge, still end in the O-Net's verdict."""
    monkeypatch.setattr(detector, "pnet", Everywhere())
    monkeypatch.setattr(detector, "rnet", Everywhere())
    generator = torch.Generator().manual_seed(2)
    noise = torch.randint(0, 256, (2, 70, 65, 3), dtype=torch.uint8, generator=generator)
    assert [len(faces) for faces in detector(noise)] == [0, 0]


def test_a_detector_by_name_has_its_least_face(tmp_path: Path) -> None:
    detector = load_detector("mtcnn", models_dir=tmp_path, device="cpu", min_face_size=77)
    assert isinstance(detector, MTCNN)
    assert detector.min_face_size == 77


def test_other_weights_are_refused() -> None:
    arrays: list[NDArray[np.float32]] = [np.zeros((3, 3, 3, 10), np.float32)]
    with pytest.raises(UserError, match=r"pnet\.lz4 .* reinstall"):
        build(PNET, arrays)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtcnn_networks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'mtcnn"):
        load_networks()
