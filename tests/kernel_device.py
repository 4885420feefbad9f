"""Where kernels are tested: compiled, on a GPU; by Triton's interpreter, where there is none.

Both run the same tests. Triton decides when it is first imported, so tests/conftest.py sets TRITON_INTERPRET
before that, and to 0 on a machine with a GPU: what passes there has been compiled.
"""

import pytest
import torch

triton = pytest.importorskip("triton", reason="no Triton for this platform")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MARKS = [pytest.mark.gpu] if DEVICE == "cuda" else []
if triton.knobs.runtime.interpret == (DEVICE == "cuda"):
    raise RuntimeError("TRITON_INTERPRET must be 0 with a GPU and 1 without before Triton is imported")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers on the CPU, whatever device they go to."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where it is not installed."""
    monkeypatch.setitem(__import__("sys").modules, "triton", None)
