"""`doctor`: what it says of this machine, and of machines that are not here."""

import importlib.metadata
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from d2r_fast.engine import doctor, machine_facts, processor
from d2r_fast.engine.backends import BACKENDS, ov
from d2r_fast.engine.doctor import findings, say_backend
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.machine_facts import limit_facts, say_locks
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
    assert processor.multiplies_bf16() is bool(instructions)


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


def test_what_a_long_run_needs_is_spoken_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = findings()
    assert found["locks here"] == "work"
    assert list(tmp_path.iterdir()) == []
    assert re.fullmatch(r"[\d.]+ of [\d.]+ GiB", found["free disk here"])
    assert re.fullmatch(r"[\d,]+ of [\d,]+|no fixed number", found["free files here"])
    for package, name in (("DALI", "nvidia-dali-cuda130"), ("Ray", "ray"), ("TensorRT", "tensorrt")):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            assert found[package].startswith("not installed: pip install 'd2r-fast[")
        else:
            assert found[package] == f"{version} ({name})"


def test_limits_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_NOFILE: (256, 4096), resource.RLIMIT_FSIZE: (5_000, resource.RLIM_INFINITY)}
    monkeypatch.setattr(machine_facts.resource, "getrlimit", limits.__getitem__)
    found = limit_facts()
    assert found["open files"] == "256, can be raised to 4,096; few: `ulimit -n 1024` or more"
    assert found["largest file"] == "5,000 bytes"


def test_a_disk_without_locks_or_without_leave_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(folder: Path) -> int:
        raise RunError("out x cannot be locked (No locks available): give a folder on a disk that has locks")

    monkeypatch.setattr(machine_facts, "take_lock", refuse)
    assert say_locks(tmp_path).startswith("none: out x cannot be locked")
    assert (
        say_locks(tmp_path / "gone") == "not tried: nothing can be written here (No such file or directory)"
    )


def test_a_broken_package_is_a_line_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: no such file')\n")
    done = subprocess.run(
        [sys.executable, "-c", "from d2r_fast.engine.doctor import examine; examine()"], capture_output=True,
        text=True, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    assert "cannot be told: OSError: libcudart.so.13: no such file" in done.stdout
    assert "locks here: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_examine_prints_what_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "findings", lambda: {"a": "1", "b": "2"})
    assert doctor.examine() == 0
    assert capsys.readouterr().out == "a: 1\nb: 2\n"
