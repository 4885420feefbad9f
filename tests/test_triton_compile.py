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
ARCHITECTURES = [90, *(pytest.param(arch, marks=pytest.mark.slow) for arch in (80, 89, 120))]
"""Hopper; Ampere, Ada and Blackwell."""
Compiled = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def compile_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Compiled]:
    """By compute capability, once each, in a process that does not interpret."""
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }
    script = Path(__file__).with_name("compile_kernels.py")

    @cache
    def run(arch: int) -> Compiled:
        done = subprocess.run(
            [sys.executable, "-W", "error", script, str(arch)],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        found: Compiled = json.loads(done.stdout)
        return found

    return run


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_kernel_compiles_at_real_and_at_smallest_sizes(
    arch: int, compile_for: Callable[[int], Compiled]
) -> None:
    compiled = compile_for(arch)
    assert set(compiled) == {f"{size}{name}" for name in KERNELS for size in ("", "smallest ")}
    for name, code in compiled.items():
        # What does not fit the registers is kept in memory; the sine's slow path for huge angles has its own.
        assert code["stack_bytes"] <= (64 if name.endswith("_normal_kernel") else 0), name
        assert code["registers"] * code["threads"] <= 1 << 15, (
            f"{name}: two programs do not fit on a multiprocessor"
        )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_memory_is_read_and_written_16_bytes_at_a_time(
    arch: int, compile_for: Callable[[int], Compiled]
) -> None:
    compiled = compile_for(arch)
    for name in ("_whole_kernel", "_chunk_kernel", "_apply_kernel", "_step_kernel"):
        assert compiled[name]["instructions"]["ld.global.v4.b32"] >= 4, name
    for name in ("_whole_kernel", "_apply_kernel", "_step_kernel", "_normal_kernel"):
        stores = {key: n for key, n in compiled[name]["instructions"].items() if key.startswith("st.global")}
        assert set(stores) == {"st.global.v4.b32"}, name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_arithmetic_rounds_where_torch_rounds(arch: int, compile_for: Callable[[int], Compiled]) -> None:
    """The step and the crop give torch's bits: no product runs into a sum, and divisions are exact."""
    compiled = compile_for(arch)
    for name in ("_step_kernel", "_crop_kernel"):
        for size in ("", "smallest "):
            found = compiled[size + name]["instructions"]
            assert not any(key.startswith("fma") for key in found), name
            assert {key for key in found if key.startswith("div") and ".f" in key} == {"div.rn.f32"}, name
    # 2 pi / 2**32 in full: as a float32 it would be off in the eighth digit.
    assert "3e1921fb54442d18" in compiled["_normal_kernel"]["float64_constants"]
    for name in ("_whole_kernel", "_apply_kernel"):
        assert any(key.startswith("cvt.rn.bf16") for key in compiled[name]["instructions"]), name
