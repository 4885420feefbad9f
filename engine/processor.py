"""This machine's processor: its name, and the instructions that decide what it computes fast."""

import platform
from functools import cache
from pathlib import Path

INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "bf16", "i8mm", "sve",
)  # fmt: skip
"""As Linux names them, x86 first, then ARM."""


@cache
def processor() -> tuple[str, tuple[str, ...]]:
    """Its name and those of INSTRUCTIONS that it has, as Linux reports them for the first core."""
    fields: dict[str, str] = {}
    for line in _cpuinfo().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    offered = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, tuple(flag for flag in INSTRUCTIONS if flag in offered)


def multiplies_bf16() -> bool:
    """Whether it has instructions for it; without them bfloat16 is the slower arithmetic."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(processor()[1])


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""
