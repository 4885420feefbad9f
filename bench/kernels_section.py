"""The Triton kernels against torch's own expressions; see kernels.py."""

from d2r_fast.bench.context import Bench
from d2r_fast.bench.record import Found


def measure(bench: Bench, found: Found) -> None:
    """Every kernel at the shapes that the networks have."""
    from d2r_fast.bench.kernels import run_kernels

    found.rows += run_kernels(bench.device, bench.budget.left_s, bytes_per_s=bench.rates.bytes_per_s)
