"""Encoders: nvImageCodec against Pillow, and translate with it."""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2r_fast.engine.encoder import Encode, JpegEncoder, describe_encoder, open_encoder
from d2r_fast.engine.errors import UserError

from .fakedata import make_image
from .fakemethod import use_fake_method
from .translating import rows, run

nvimgcodec = pytest.importorskip("nvidia.nvimgcodec", reason="needs nvImageCodec")
PIXELS = make_image(0, 1, 2)[:90]


def plain(quality: int) -> Encode:
    return open_encoder("plain", image_format="jpg", quality=quality, device="cpu")


@pytest.mark.parametrize("quality", [30, 95])
def test_files_are_those_of_pillow(quality: int) -> None:
    data = open_encoder("nvimgcodec", image_format="jpg", quality=quality, device="cpu")(PIXELS)
    image = Image.open(io.BytesIO(data))
    assert image.size == (112, 90)
    assert [sampling[1:3] for sampling in image.layer] == [(1, 1)] * 3, "4:4:4"
    wanted = Image.open(io.BytesIO(plain(quality)(PIXELS)))
    assert image.quantization == wanted.quantization
    assert np.abs(np.asarray(image).astype(int) - np.asarray(wanted)).max() <= 1


def test_threads_and_strides_do_not_matter() -> None:
    encode = JpegEncoder(quality=90, device="cpu")
    images = [np.ascontiguousarray(make_image(0, seed, 0)) for seed in range(6)]
    alone = [encode(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode, images * 5)) == alone * 5
    assert encode(np.asfortranarray(images[0])) == alone[0]


def test_it_writes_jpeg_alone() -> None:
    with pytest.raises(UserError, match="encoder nvimgcodec writes jpg, not png: give --image-format jpg"):
        open_encoder("nvimgcodec", image_format="png", quality=95, device="cpu")


def test_without_it_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    monkeypatch.delattr("nvidia.nvimgcodec", raising=False)
    with pytest.raises(UserError, match=r"encoder nvimgcodec: .*pip install 'd2r-fast\[gpu\]'"):
        open_encoder("nvimgcodec", image_format="jpg", quality=95, device="cpu")


def test_translate_writes_with_it_and_says_so(
    patterns: Path, shift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_method(monkeypatch)
    for encoder in ("plain", "nvimgcodec"):
        out = tmp_path / encoder
        assert run(patterns, shift, out, encoder=encoder, image_format="jpg", identities=2) == 0
    documents = [
        json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("plain", "nvimgcodec")
    ]
    assert documents[1] == documents[0] | describe_encoder("nvimgcodec")
    assert describe_encoder("plain") == {}
    assert rows(tmp_path / "nvimgcodec") == rows(tmp_path / "plain")
    for path in sorted((tmp_path / "plain").glob("*/*.jpg")):
        ours = tmp_path / "nvimgcodec" / path.relative_to(tmp_path / "plain")
        one, other = (np.asarray(Image.open(found)).astype(int) for found in (ours, path))
        assert np.abs(one - other).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_encodes_too() -> None:
    encode = JpegEncoder(quality=95, device="cuda:0")
    found = np.asarray(Image.open(io.BytesIO(encode(PIXELS)))).astype(int)
    wanted = np.asarray(Image.open(io.BytesIO(plain(95)(PIXELS))))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 6
