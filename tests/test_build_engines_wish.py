"""What may be asked of engines, and what is said of the rest before any work is done."""

from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.build_engines import build_engines
from d2r_fast.engine.engine_wish import NETWORKS, Wish, expand
from d2r_fast.engine.errors import UserError
from d2r_fast.export import networks


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"backend": "onnx"}, r"backend 'onnx' is not there: expected one of torch, "),
        ({"precision": "int8"}, r"precision 'int8' is not there: expected one of fp32, bf16, fp16"),
        ({"batch_size": 0}, r"batch size 0: expected at least 1"),
        ({"height": 100, "width": 64}, r"height 100: expected a multiple of 8"),
        ({"height": 64, "width": 0}, r"width 0: expected a multiple of 8"),
        ({"height": 64}, r"height and width go together"),
        ({"device": "cuda:99"}, r"device 'cuda:99' is not there"),
        ({"backend": "onnxruntime", "precision": "bf16"}, r"onnxruntime in bf16: .*give fp32 or fp16"),
        ({"backend": "tensorrt-rtx", "device": "cpu"}, r"tensorrt-rtx runs on CUDA alone"),
        (
            {"backend": "tensorrt-rtx", "targets": ("sm90",)},
            r"cannot build for 'sm90': give --targets some of sm75",
        ),
        ({"targets": ("sm89",)}, r"openvino builds for this machine alone: leave --targets out"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(wish: dict[str, Any], says: str) -> None:
    if wish.get("backend") == "tensorrt-rtx":
        pytest.importorskip("tensorrt_rtx")
    with pytest.raises(UserError, match=says) as caught:
        Wish(**{"backend": "openvino", "precision": "fp32"} | wish).checked()
    assert "\n" not in str(caught.value)


def test_a_network_that_a_backend_does_not_compile_is_said_before_any_is_built(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"backend inductor for pnet: the height and width .*: give --networks unet,"
    ):
        build_engines(tmp_path, tmp_path / "engines", backend="inductor", precision="fp32")
    assert not (tmp_path / "engines").exists()


def test_openvino_computes_in_half_only_where_the_processor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "BF16", "INT8"]

    from d2r_fast.engine.backends import ov

    monkeypatch.setattr(ov, "_core", Core)
    backend = find_backend("openvino")
    assert backend.why_not_precision("bf16", "cpu") is None
    assert "no fp16 instructions" in str(backend.why_not_precision("fp16", "cpu"))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("unet", ("unet",)),
        ("vae, detector", ("vae", "pnet", "rnet", "onet")),
        ("pnet,detector,pnet", ("pnet", "rnet", "onet")),
    ],
)
def test_names_of_networks(given: str, names: tuple[str, ...]) -> None:
    assert expand(given) == names


@pytest.mark.parametrize("given", ["", " , ", "unet,codeformer"])
def test_names_of_no_network_are_refused(given: str) -> None:
    with pytest.raises(UserError, match=r"expected a list of unet, vae, encoder, arcface, detector"):
        expand(given)


def test_the_names_are_those_that_can_be_exported() -> None:
    assert NETWORKS == networks.NETWORKS
