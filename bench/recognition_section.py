"""Speed of the verification protocols: the ten-fold sweep against a plain loop, and IJB-C's size in time and memory.

Protocols run on the processor whatever device networks run on, and so do their ceilings.
"""

import json
import subprocess
import sys
from typing import Any

import numpy as np

from d2r_fast.bench.ceiling import Rates, measure_rates
from d2r_fast.bench.context import Bench
from d2r_fast.bench.ijb_scale import AGGREGATE, SCORE, SWEEP
from d2r_fast.bench.measure import NoTime, Timing, compare, interleave
from d2r_fast.bench.plain_folds import plain_distances, plain_ten_fold, scripted_ten_fold
from d2r_fast.bench.record import Found
from d2r_fast.bench.targets import target
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import RunError
from d2r_fast.recognition.evaluation.folds import Folds, pair_distances, ten_fold, unit_distances

NUM_PAIRS, WIDTH = 6000, 512
"""LFW's number of pairs, and the usual embedding."""
OVER_SCRIPT = "ten-fold sweep over calculate_roc's work"
OVER_PLAIN = "ten-fold sweep over a plain loop"
NUM_ROUNDS = 5
WINDOW_S = 0.1
MINI_SHARE = 0.02
"""Of IJB-C's size, where networks are mini too."""
MOST_S, MOST_BYTES = 60.0, 6e9
"""What IJB-C's size may take."""
PLAIN, SWEPT = "plain loop over thresholds", "ten-fold sweep"
WHOLE_SCRIPT, WHOLE_PLAIN, WHOLE_SWEPT, RAW_SWEPT = (
    "loop of the published scripts, from unit vectors", "plain loop over thresholds, from unit vectors",
    "ten-fold sweep, from unit vectors", "ten-fold sweep, from embeddings",
)  # fmt: skip
Json = dict[str, Any]


def measure(bench: Bench, found: Found) -> None:
    """Both protocols."""
    rates = bench.rates if bench.on_cpu else measure_rates("cpu")
    say(
        f"recognition: on the processor, which copies {rates.bytes_per_s / 1e9:.3g} GB/s and does "
        f"{rates.flops_per_s['fp32'] / 1e12:.3g} TFLOP/s in fp32"
    )
    measure_folds(bench, found, rates)
    measure_templates(bench, found, rates)


def measure_folds(bench: Bench, found: Found, rates: Rates) -> None:
    """6,000 pairs, 10 folds, 400 thresholds: like against like, from unit vectors on as calculate_roc and from
    distances on.

    Raises:
        RunError: a loop comes to other accuracies.
    """
    rng = np.random.default_rng(0)
    same = rng.random(NUM_PAIRS) < 0.5
    embeddings = rng.standard_normal((2 * NUM_PAIRS, WIDTH))
    embeddings[1::2] += np.where(same, 0.5, 0)[:, None] * embeddings[0::2]
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = unit_distances(unit)
    check_same(ten_fold(distances, same), plain_ten_fold(plain_distances(unit), same))
    check_same(ten_fold(distances, same), scripted_ten_fold(unit, same))
    timings = interleave(
        {
            WHOLE_SCRIPT: lambda: scripted_ten_fold(unit, same),
            WHOLE_PLAIN: lambda: plain_ten_fold(plain_distances(unit), same),
            WHOLE_SWEPT: lambda: ten_fold(unit_distances(unit), same),
            PLAIN: lambda: plain_ten_fold(distances, same),
            SWEPT: lambda: ten_fold(distances, same),
            RAW_SWEPT: lambda: ten_fold(pair_distances(embeddings), same),
        },
        num_rounds=NUM_ROUNDS, window_s=WINDOW_S, most_s=bench.budget.left_s * 0.3,
    )  # fmt: skip
    floors_s = dict.fromkeys((WHOLE_SWEPT, RAW_SWEPT), embeddings.nbytes / rates.bytes_per_s)
    for name, timing in timings.items():
        share = floors_s[name] / timing.median_s if name in floors_s else None
        found.row(name, num_pairs=NUM_PAIRS, **timing.row(NUM_PAIRS), of_ceiling=share)
    for title, loop, sweep, note in (
        (
            OVER_SCRIPT,
            WHOLE_SCRIPT,
            WHOLE_SWEPT,
            "the work of calculate_roc: unit vectors in, all outcomes counted",
        ),
        (
            f"{OVER_PLAIN}, accuracy alone",
            WHOLE_PLAIN,
            WHOLE_SWEPT,
            "unit vectors in, no more than asked for",
        ),
        (f"{OVER_PLAIN}, distances given", PLAIN, SWEPT, "distances in, no more than asked for"),
    ):
        ratio = compare(timings[loop], timings[sweep])
        note = f"{NUM_PAIRS:,} pairs, 400 thresholds, identical; {note}"
        found.ratio(title, ratio, target=target(title, bench.kind), note=note)


def check_same(ours: Folds, plain: tuple[list[float], list[float]]) -> None:
    """Refuses to compare times of unequal results."""
    if (ours.accuracies.tolist(), ours.thresholds.tolist()) != plain:
        raise RunError("the sweep and the plain loop come to other accuracies: times are not compared")


def measure_templates(bench: Bench, found: Found, rates: Rates) -> None:
    """IJB-C's size: every stage, and the peak of memory.

    Raises:
        NoTime: it takes longer than there is time.
        RunError: it failed.
    """
    result = run_scale(1.0 if bench.size == "full" else MINI_SHARE, most_s=bench.budget.left_s)
    floors_s = least_seconds(result, rates)
    total_s = 0.0
    for name, times_s in result["stages_s"].items():
        timing = Timing(tuple(times_s), 1)
        total_s += timing.median_s
        found.row(
            f"templates: {name}", num_images=result["num_images"], num_pairs=result["num_pairs"],
            **timing.row(result["num_pairs"]), floor_s=floors_s[name], of_ceiling=floors_s[name] / timing.median_s,
        )  # fmt: skip
    if bench.size != "full":
        return
    title = "60 s over IJB-C's templates, pairs and curve"
    found.finding(
        title, MOST_S / total_s, unit="x", target=target(title, bench.kind), note=f"{total_s:.1f} s"
    )
    if result["peak_bytes"] is not None:
        title, peak = "6 GB over the peak memory of it", result["peak_bytes"]
        note = f"{peak / 1e9:.2f} GB"
        found.finding(title, MOST_BYTES / peak, unit="x", target=target(title, bench.kind), note=note)


def run_scale(share: float, *, most_s: float) -> Json:
    """What `ijb_scale` says of that share of IJB-C's size."""
    command = [sys.executable, "-m", "d2r_fast.bench.ijb_scale", "--share", str(share)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(most_s, 1.0))
    except subprocess.TimeoutExpired:
        raise NoTime(f"IJB-C's size takes more than the {most_s:.0f} s left: give --budget-s more") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RunError(
            f"ijb_scale ended with status {done.returncode}: {lines[-1] if lines else 'no message'}"
        )
    result: Json = json.loads(done.stdout)
    return result


def least_seconds(result: Json, rates: Rates) -> dict[str, float]:
    """What moving each stage's numbers once takes at the rate of a copy.

    Embeddings in and features out; two feature rows for every pair, which a large cache may serve faster; scores
    and labels in and scores in order out.
    """
    width = result["width"]
    moved = {
        AGGREGATE: result["num_images"] * width * 4 + result["num_templates"] * width * 8,
        SCORE: result["num_pairs"] * (2 * width + 3) * 8,
        SWEEP: result["num_pairs"] * (8 + 8 + 1),
    }
    return {name: num_bytes / rates.bytes_per_s for name, num_bytes in moved.items()}
