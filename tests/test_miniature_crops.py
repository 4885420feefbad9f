"""Crops of the miniature world are those of a detector, as in every pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2r_fast.bench.miniature import crops
from d2r_fast.bench.miniature.crops import crop_domain, cut, draw_and_cut
from d2r_fast.bench.miniature.head import Head
from d2r_fast.engine.mtcnn import MTCNN


@pytest.fixture(scope="module")
def detector() -> MTCNN:
    return MTCNN()


def test_pictures_without_a_face_are_dropped(head: Head, detector: MTCNN) -> None:
    ((held, pictures, found),) = draw_and_cut("snapshots", head, detector, [(0, 0), (1, 0)], seed=0)
    assert held == [(0, 0), (1, 0)]
    again, good = cut(torch.stack([pictures[1], torch.full_like(pictures[0], 128), pictures[0]]), detector)
    assert good.tolist() == [True, False, True]
    assert torch.equal(again, found[[1, 0]])
    none, good = cut(torch.full((2, 128, 128, 3), 128, dtype=torch.uint8), detector)
    assert none.shape == (0, 112, 112, 3)
    assert not good.any()


def test_faces_are_found_and_crops_lie_inside_their_pictures(head: Head, detector: MTCNN) -> None:
    wanted = [(person, image) for person in range(12) for image in range(2)]
    parts = list(draw_and_cut("renders", head, detector, wanted, seed=0))
    assert sum(len(held) for held, _, _ in parts) >= 23
    corners = torch.cat([found for _, _, found in parts])[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    outside = (corners == 0).all(-1)
    assert outside.float().mean() < 0.02


def test_a_crop_depends_on_its_number_alone(
    facekit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop_domain("renders", facekit, tmp_path / "a", identities=range(3, 5), images_per_identity=2)
    assert sorted(path.name for path in (tmp_path / "a").rglob("*.png")) == [
        "0.png",
        "0.png",
        "1.png",
        "1.png",
    ]
    monkeypatch.setattr(crops, "BATCH", 1)
    crop_domain("renders", facekit, tmp_path / "b", identities=range(4, 5), images_per_identity=1)
    one, other = (tmp_path / name / "4" / "0.png" for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    with Image.open(one) as picture:
        assert np.asarray(picture).shape == (112, 112, 3)


def test_what_is_there_is_left_alone(facekit: Path, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "0.png").write_text("mine")
    crop_domain("renders", facekit, tmp_path, identities=range(7, 8), images_per_identity=2)
    assert (tmp_path / "7" / "0.png").read_text() == "mine"
    assert (tmp_path / "7" / "1.png").exists()
