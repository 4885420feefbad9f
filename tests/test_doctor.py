"""`doctor`: what it says of this machine, and of machines that are not here."""

from typing import Any

import pytest
import torch

from d2r_fast.engine import doctor, processor
from d2r_fast.engine.backends import BACKENDS, ov
from d2r_fast.engine.doctor import findings, say_backend
from d2r_fast.engine.processor import processor as find_processor

SAPPHIRE = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse avx2 avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8
processor\t: 1
model name\t: another
flags\t\t: fpu
"""
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimdhp sve bf16 i8mm\n"


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    find_processor.cache_clear()
    yield
    find_processor.cache_clear()


@pytest.mark.parametrize(
    ("text", "name", "instructions"),
    [
        (
            SAPPHIRE,
            "Intel(R) Xeon(R) Platinum 8480+",
            ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
        ),
        (GRAVITON, None, ("asimd", "asimdhp", "bf16", "i8mm", "sve")),
        ("", None, ()),
    ],
)
def test_instructions_are_those_of_the_first_core(
    monkeypatch: pytest.MonkeyPatch, text: str, name: str | None, instructions: tuple[str, ...]
) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: text)
    found = find_processor()
    assert found[1] == instructions
    assert found[0] == name if name else found[0]


def test_every_backend_is_spoken_of_in_one_line() -> None:
    found = findings()
    for name in BACKENDS:
        lines = [value for key, value in found.items() if key.startswith(f"backend {name} on ")]
        assert lines
        assert all(
            "\n" not in line and ("runs in fp32" in line or "does not run: " in line) for line in lines
        )
    assert found["backend torch on cpu"] == "runs in fp32, bf16, fp16"
    assert found["processor"].endswith("GiB memory")


def test_openvino_says_which_precisions_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "BF16"]

    monkeypatch.setattr(ov, "_core", Core)
    line = say_backend("openvino", "cpu")
    assert line.startswith("runs in fp32, bf16; not in fp16: this CPU has no fp16 instructions")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a card does")
def test_tensorrt_rtx_builds_without_a_card() -> None:
    pytest.importorskip("tensorrt_rtx")
    line = say_backend("tensorrt-rtx", "cuda")
    assert line.startswith("builds ahead of time for sm75, sm80, sm86, sm89, ")
    assert line.endswith("does not run: there is no CUDA device here")


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "does not build: it needs the C++ compiler no-such-compiler" in say_backend("inductor", "cpu")


def test_a_missing_package_is_said_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("no module named openvino")

    monkeypatch.setattr(ov, "_core", missing)
    assert say_backend("openvino", "cpu").startswith(
        "does not run: the package openvino is missing: pip install"
    )


def test_examine_prints_what_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "findings", lambda: {"a": "1", "b": "2"})
    assert doctor.examine() == 0
    assert capsys.readouterr().out == "a: 1\nb: 2\n"
