"""The SCRFD network: size, order and layout of its outputs, and its ONNX against itself."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from d2r_fast.engine.models import configs
from d2r_fast.engine.models.init import random_detector
from d2r_fast.export.detector import OUTPUT_NAMES, SCRFD, SCRFD_10G, export_detector

from .initmodels import mini_models


def network(*, batched: bool = False) -> SCRFD:
    scrfd = random_detector(configs.MINI, 0)
    scrfd.batched = batched
    return scrfd


def images(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_has_the_released_detectors_size() -> None:
    # scrfd_10g_bnkps.onnx is 16,923,827 bytes of float32 and a graph; the paper's table says 4.23 M
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in SCRFD(SCRFD_10G).parameters())
    assert 4.22e6 < count < 16_923_827 / 4


def test_outputs_at_640() -> None:
    with torch.no_grad():
        outputs = network()(images(1, 640, 640))
    assert [tuple(output.shape) for output in outputs] == [
        (12800, 1), (3200, 1), (800, 1), (12800, 4), (3200, 4), (800, 4), (12800, 10), (3200, 10), (800, 10),
    ]  # fmt: skip
    for output in outputs:
        assert output.isfinite().all()
        assert output.std() > 1e-5
    assert all(output.min() > 0 and output.max() < 0.5 for output in outputs[:3])


def test_rows_run_along_the_image_two_anchors_each() -> None:
    scrfd, seen = network(), {}
    for kind, convolution in scrfd.heads[1].predict.items():
        convolution.register_forward_hook(lambda _, __, maps, kind=kind: seen.update({kind: maps}))
    with torch.no_grad():
        outputs = scrfd(images(1, 96, 160))
    rows, columns = 96 // 16, 160 // 16
    for (kind, count), given in zip((("score", 1), ("bbox", 4), ("kps", 10)), outputs[1::3], strict=True):
        assert given.shape == (rows * columns * 2, count)
        for y, x, anchor in ((0, 0, 0), (0, 1, 1), (3, 7, 0), (rows - 1, columns - 1, 1)):
            wanted = seen[kind][0, anchor * count : (anchor + 1) * count, y, x]
            wanted = wanted.sigmoid() if kind == "score" else wanted
            assert torch.equal(given[(y * columns + x) * 2 + anchor], wanted)


def test_a_batch_is_its_images() -> None:
    both = images(2, 64, 96)
    with torch.no_grad():
        batched = network(batched=True)(both)
        for index in range(2):
            for given, wanted in zip(batched, network()(both[index : index + 1]), strict=True):
                torch.testing.assert_close(given[index], wanted, rtol=1e-4, atol=1e-5)


def check_parity(scrfd: SCRFD, path: Path, *, num_images: int) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == OUTPUT_NAMES
    assert [opset.version for opset in onnx.load(path).opset_import if opset.domain == ""] == [18]
    for height, width in ((640, 640), (256, 256), (64, 192)):
        x = images(num_images, height, width)
        with torch.no_grad():
            wanted = scrfd(x)
        for given, value in zip(session.run(None, {"input.1": x.numpy()}), wanted, strict=True):
            assert given.shape == tuple(value.shape)
            assert np.abs(given - value.numpy()).max() <= 1e-5 * value.abs().max()


def test_onnx_equals_torch_at_any_size(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = mini_models(tmp_path_factory.getbasetemp())
    check_parity(network(), folder / "antelopev2/scrfd_10g_bnkps.onnx", num_images=1)


@pytest.mark.slow
def test_batched_onnx_equals_torch_at_any_size(tmp_path: Path) -> None:
    export_detector(network(batched=True), tmp_path / "scrfd.onnx")
    check_parity(network(batched=True), tmp_path / "scrfd.onnx", num_images=3)
