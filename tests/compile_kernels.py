"""Compiles every kernel as it would be launched at real shapes, for a GPU that need not be there.

Run in a process of its own, without the interpreter. Launches are recorded on tensors without data and compiled
by the same rules as Triton's launcher; prints what the machine code looks like as one JSON line.
"""

import inspect
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
import triton.backends.nvidia
import triton.language
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from d2r_fast.kernels import crop, group_norm, noise, sampler_step

TYPES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float64: "*fp64",
    torch.int64: "*i64", torch.uint8: "*u8",
}  # fmt: skip
INSTRUCTION = re.compile(r"^\s+(?:@%p\d+ )?([a-z][a-z0-9_.:]*)", re.MULTILINE)
Launch = tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]


def record(num: int, side: int) -> list[Launch]:
    """Every kernel, for `num` images whose latents have this side."""
    launches: list[Launch] = []
    for module in (crop, group_norm, noise, sampler_step):
        module.launch = partial(note, launches)  # type: ignore[attr-defined]
    launch_norms(num, side)
    latent = (4, side, side) if side > 1 else (1, 1, 1)
    x, eps = empty(num, *latent), empty(2 * num, *latent)
    index, rows = empty(num, dtype=torch.int64), empty(num, 6)
    sampler_step.launch_step(x, x, eps, index, index, index, rows[:, 0], rows, x)
    noise.fused_normal(torch.zeros((num, 4), dtype=torch.int64), latent, device="meta")
    pictures, size = (empty(num, 8 * side, 8 * side, 3), 112) if side > 1 else (empty(num, 1, 1, 3), 1)
    half = (0.5, 0.5, 0.5)
    matrices = empty(num, 2, 3, dtype=torch.float64)
    crop.launch_crop(pictures.to(torch.uint8), matrices, size, half, half, False, torch.float16)
    return launches


def note(
    launches: list[Launch], kernel: Callable[..., None], grid: tuple[int, ...], *args: Any, **options: Any
) -> None:
    """Stands in for `launch`."""
    assert all(0 < number < 2**31 for number in grid)
    launches.append((kernel, args, options))


def launch_norms(num: int, side: int) -> None:
    """Both ways of the group norm, on the second and the first level of the UNet."""
    for channels, scale, whole in ((1280, 4, True), (320, 1, False)):
        positions = max(side // scale, 1) ** 2
        x = empty(num, positions, channels if side > 1 else 32, dtype=torch.bfloat16).movedim(-1, 1)
        tiles = group_norm.choose_tiles(positions, x.shape[1], 32)
        if tiles.whole != whole:
            tiles = group_norm.Tiles(whole, 128, 32, 512, 4)
        weight = empty(x.shape[1], dtype=torch.bfloat16)
        run = group_norm.run_whole if whole else group_norm.run_split
        run(x, x, weight, weight, 32, 1e-5, True, tiles)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def compile_launch(
    kernel: Callable[..., None], args: tuple[Any, ...], options: dict[str, Any], arch: int
) -> Any:
    """The launch's machine code. Pointers and multiples of 16 are known to be such, and ones to be ones."""
    kernel.__globals__["tl"] = triton.language
    names = list(inspect.signature(kernel).parameters)
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    aligned: dict[tuple[int], list[list[Any]]] = {}
    for place, (name, value) in enumerate(zip(names, args, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        elif value == 1 and isinstance(value, int):
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            aligned[(place,)] = [["tt.divisibility", 16]]
    for name in [name for name in options if name in names]:
        signature[name], constants[name] = "constexpr", options.pop(name)
    source = ASTSource(fn=triton.jit(kernel), signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def describe(compiled: Any) -> dict[str, Any]:
    """Counts of instructions, and what a thread needs."""
    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    ptx = compiled.asm["ptx"]
    return {
        "registers": int(found[1]), "stack_bytes": int(found[2]), "shared_bytes": compiled.metadata.shared,
        "threads": 32 * compiled.metadata.num_warps, "instructions": Counter(INSTRUCTION.findall(ptx)),
        "float64_constants": sorted({match.lower() for match in re.findall(r"0[dx]([0-9A-Fa-f]{16})", ptx)}),
    }  # fmt: skip


if __name__ == "__main__":
    arch, num_images, side = map(int, sys.argv[1:])
    found = {
        launch[0].__name__: describe(compile_launch(*launch, arch)) for launch in record(num_images, side)
    }
    print(json.dumps(found))
