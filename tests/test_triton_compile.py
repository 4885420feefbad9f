"""The kernels compiled for GPUs that are not here: that they compile, and what the machine code must hold."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="no Triton for this platform")
KERNELS = (
    "_whole_kernel", "_chunk_kernel", "_merge_kernel", "_apply_kernel", "_step_kernel", "_normal_kernel",
    "_crop_kernel",
)  # fmt: skip
SIZES = {"real": (16, 64), "smallest": (1, 1)}
"""Images and side of their latents; where a size is 1, Triton compiles it as a constant."""
TARGETS = [
    (90, "real"),
    pytest.param(90, "smallest", marks=pytest.mark.slow),
    *(pytest.param(arch, size, marks=pytest.mark.slow) for arch in (80, 89, 120) for size in SIZES),
]
"""Hopper; Ampere, Ada and Blackwell."""
Compiled = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def compile_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Compiled]:
    """By compute capability and size, once each, in a process that does not interpret."""
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }
    script = Path(__file__).with_name("compile_kernels.py")

    @cache
    def run(arch: int, size: str) -> Compiled:
        command = [sys.executable, "-W", "error", script, *map(str, (arch, *SIZES[size]))]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        found: Compiled = json.loads(done.stdout)
        return found

    return run


@pytest.mark.parametrize(("arch", "size"), TARGETS)
def test_every_kernel_compiles(arch: int, size: str, compile_for: Callable[[int, str], Compiled]) -> None:
    compiled = compile_for(arch, size)
    assert set(compiled) == set(KERNELS)
    for name, code in compiled.items():
        # What does not fit the registers is kept in memory; the sine's slow path for huge angles has its own.
        assert code["stack_bytes"] <= (64 if name == "_normal_kernel" else 0), name
        assert code["registers"] * code["threads"] <= 1 << 15, f"{name}: two do not fit on a multiprocessor"


@pytest.mark.parametrize(("arch", "size"), TARGETS)
def test_arithmetic_rounds_where_torch_rounds(
    arch: int, size: str, compile_for: Callable[[int, str], Compiled]
) -> None:
    """The step and the crop give torch's bits: no product runs into a sum, and divisions are exact."""
    compiled = compile_for(arch, size)
    for name in ("_step_kernel", "_crop_kernel"):
        found = compiled[name]["instructions"]
        assert not any(key.startswith("fma") for key in found), name
        assert {key for key in found if key.startswith("div") and ".f" in key} == {"div.rn.f32"}, name
    # 2 pi / 2**32 in full: as a float32 it would be off in the eighth digit.
    assert "3e1921fb54442d18" in compiled["_normal_kernel"]["float64_constants"]
    for name in ("_whole_kernel", "_apply_kernel"):
        assert any(key.startswith("cvt.rn.bf16") for key in compiled[name]["instructions"]), name


@pytest.mark.parametrize(("arch", "size"), [target for target in TARGETS if "real" in str(target)])
def test_memory_is_read_and_written_16_bytes_at_a_time(
    arch: int, size: str, compile_for: Callable[[int, str], Compiled]
) -> None:
    compiled = compile_for(arch, size)
    for name in ("_whole_kernel", "_chunk_kernel", "_apply_kernel", "_step_kernel"):
        assert compiled[name]["instructions"]["ld.global.v4.b32"] >= 4, name
    for name in ("_whole_kernel", "_apply_kernel", "_step_kernel", "_normal_kernel"):
        instructions = compiled[name]["instructions"]
        assert {key for key in instructions if key.startswith("st.global")} == {"st.global.v4.b32"}, name
