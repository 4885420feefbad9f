"""The protocols' benchmark: what it compares, what it finds at a small size, and what it does when time is up."""

from pathlib import Path

import numpy as np
import pytest

from d2r_fast.bench import recognition_section
from d2r_fast.bench.ceiling import Rates
from d2r_fast.bench.config import BenchConfig
from d2r_fast.bench.context import Bench
from d2r_fast.bench.ijb_scale import AGGREGATE, SCORE, SWEEP, draw_benchmark, peak_bytes
from d2r_fast.bench.measure import Budget, NoTime
from d2r_fast.bench.plain_folds import plain_ten_fold
from d2r_fast.bench.recognition_section import check_same, least_seconds, measure
from d2r_fast.bench.record import Found
from d2r_fast.engine.errors import RunError
from d2r_fast.recognition.evaluation.folds import ten_fold

from .protocol_data import integers, labels

RATES = Rates({"fp32": 1e11}, 1e10)


def make_bench(folder: Path, size: str) -> Bench:
    """Of no models: protocols need none, and the size of the networks is told."""
    bench = Bench(BenchConfig(), "cpu", folder, folder, RATES, Budget(300), {})
    bench.__dict__["size"] = size
    return bench


def test_the_section_measures_both_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recognition_section, "MINI_SHARE", 0.001)
    monkeypatch.setattr(recognition_section, "NUM_PAIRS", 600)
    monkeypatch.setattr(recognition_section, "NUM_ROUNDS", 2)
    monkeypatch.setattr(recognition_section, "WINDOW_S", 0.0)
    found = Found()
    measure(make_bench(tmp_path, "mini"), found)
    assert "copies 10 GB/s and does 0.1 TFLOP/s in fp32" in capsys.readouterr().err
    assert [row["name"] for row in found.rows] == [
        "loop of the published scripts, from unit vectors", "plain loop over thresholds, from unit vectors",
        "ten-fold sweep, from unit vectors", "plain loop over thresholds", "ten-fold sweep",
        "ten-fold sweep, from embeddings",
        *(f"templates: {stage}" for stage in (AGGREGATE, SCORE, SWEEP)),
    ]  # fmt: skip
    assert found.rows[-1]["num_pairs"] == 15_658
    title, plain = "ten-fold sweep over calculate_roc's work", "ten-fold sweep over a plain loop"
    assert [(ratio["name"], ratio["target"]) for ratio in found.findings] == [
        (title, 20.0), (f"{plain}, accuracy alone", None), (f"{plain}, distances given", None),
    ]  # fmt: skip
    assert all(ratio["value"] > 1 for ratio in found.findings)
    assert "from unit vectors" in found.rows[0]["name"], "what calculate_roc starts from"


def test_full_size_says_time_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {
        "num_images": 469_375, "num_templates": 23_124, "num_pairs": 15_658_489, "width": 512,
        "stages_s": {AGGREGATE: [2.0, 3.0, 4.0], SCORE: [9.0, 8.0, 10.0], SWEEP: [3.0, 3.0, 3.0]}, "peak_bytes": 3e9,
    }  # fmt: skip
    shares = []
    monkeypatch.setattr(
        recognition_section, "run_scale", lambda share, most_s: shares.append(share) or result
    )
    bench, found = make_bench(tmp_path, "full"), Found()
    recognition_section.measure_templates(bench, found, RATES)
    assert shares == [1.0]
    assert [(finding["value"], finding["note"]) for finding in found.findings] == [
        (4.0, "15.0 s"),
        (2.0, "3.00 GB"),
    ]
    scored = found.rows[1]
    assert (scored["median_s"], scored["per_s"]) == (9, pytest.approx(15_658_489 / 9, rel=1e-5))
    assert scored["floor_s"] == pytest.approx(15_658_489 * (2 * 512 + 3) * 8 / 1e10)
    assert least_seconds(result, RATES)[AGGREGATE] == pytest.approx((469_375 * 2048 + 23_124 * 4096) / 1e10)


def test_what_takes_too_long_is_skipped_and_what_fails_is_said() -> None:
    with pytest.raises(NoTime, match="give --budget-s more"):
        recognition_section.run_scale(1.0, most_s=0.1)
    with pytest.raises(RunError, match="ijb_scale ended with status 1"):
        recognition_section.run_scale(-1.0, most_s=100)


def test_unequal_results_are_not_timed() -> None:
    same, distances = labels(1, 50), integers(2, 400, 50) / 100
    accuracies, thresholds = plain_ten_fold(distances, same)
    check_same(ten_fold(distances, same), (accuracies, thresholds))
    with pytest.raises(RunError, match="times are not compared"):
        check_same(ten_fold(distances, same), (accuracies[::-1], thresholds))


def test_the_drawn_benchmark_has_every_template_and_is_the_same_again() -> None:
    drawn = draw_benchmark(0.002)
    assert (len(drawn.embeddings), len(drawn.first)) == (939, 31_317)
    np.testing.assert_array_equal(np.unique(drawn.templates), np.arange(46))
    assert drawn.first.max() < 46
    np.testing.assert_array_equal(draw_benchmark(0.002).embeddings, drawn.embeddings)
    assert 0 < drawn.same.sum() < 100


def test_peak_of_memory_is_known_on_linux() -> None:
    peak = peak_bytes()
    assert peak is None if not Path("/proc/self/status").exists() else peak > 10_000_000
