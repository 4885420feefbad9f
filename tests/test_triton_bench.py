"""The kernel benchmark: its dry run, and that its arms compute the same thing."""

import math

import pytest
import torch

from d2r_fast.bench.kernels import (
    DRY_RUN,
    EAGER,
    UNET_NORMS,
    VAE_NORMS,
    Case,
    make_cases,
    norm_candidates,
    run_kernels,
)
from d2r_fast.kernels.group_norm import MAX_WHOLE, choose_tiles

from .kernel_device import DEVICE, MARKS

pytestmark = MARKS


def test_the_dry_run_times_the_torch_expressions(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_kernels("cpu", 30.0, bytes_per_s=1e10)
    assert len(rows) == len(list(make_cases(small=True)))
    for row in rows:
        assert row["arm"] == EAGER
        assert row["note"] == DRY_RUN
        assert row["floor_s"] == pytest.approx(row["num_bytes"] / 1e10, rel=1e-5)
        assert row["of_ceiling"] == pytest.approx(row["floor_s"] / row["median_s"], rel=1e-3)
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "kernels on cpu: copy 10 GB/s, read and written"
    assert "at the least" in said[1]


def test_what_the_time_does_not_reach_is_said() -> None:
    rows = run_kernels("cpu", 0.0, bytes_per_s=1e10)
    assert [row["reason"] for row in rows] == ["the time was up"] * len(list(make_cases(small=True)))


@pytest.mark.parametrize("case", list(make_cases(small=True)), ids=lambda case: case.name)
def test_arms_compute_the_same(case: Case) -> None:
    """On one set of inputs; the step changes its own."""
    results = []
    for call in (case.plain, case.kernel, *list(case.candidates.values())[:1]):
        inputs = case.inputs(DEVICE, 0)
        out = call(*inputs)
        out = inputs[:2] if out is None else out
        results.append(out if isinstance(out, tuple) else (out,))
    for other in results[1:]:
        for ours, wanted in zip(other, results[0], strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [*UNET_NORMS, *VAE_NORMS])
def test_candidates_cut_what_the_launcher_cuts(shape: tuple[int, int, int, int]) -> None:
    _, channels, height, width = shape
    chosen = choose_tiles(height * width, channels, 32)
    candidates = list(norm_candidates(shape))
    assert any(tiles.whole for tiles in candidates) or not chosen.whole
    assert len(set(candidates)) == len(candidates)
    for tiles in candidates:
        assert all(size & (size - 1) == 0 for size in (tiles.rows, tiles.channels, tiles.num_warps))
        assert tiles.rows * tiles.channels <= 4 * MAX_WHOLE
        assert tiles.whole or tiles.chunk % tiles.rows == 0
