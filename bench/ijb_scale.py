"""The IJB-C protocol on random embeddings, in a process of its own, so that its peak of memory is its own.

    python -m d2r_fast.bench.ijb_scale --share 1     # one line of JSON: seconds of each stage, peak of memory

As many embeddings, templates and pairs as IJB-C has, times `--share`. Which pairs are of one person is drawn at
random: the curve then has more corners than any network's, so the sweep has most to do.
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2r_fast.bench.measure import interleave
from d2r_fast.recognition.evaluation.roc import Roc, equal_error_rate, roc_curve, tar_at_far
from d2r_fast.recognition.evaluation.templates import Templates, aggregate, score_templates

NUM_IMAGES, NUM_TEMPLATES, NUM_PAIRS, NUM_GENUINE = 469_375, 23_124, 15_658_489, 19_557
"""Of IJB-C's 1:1 protocol."""
WIDTH = 512
AGGREGATE, SCORE, SWEEP = "aggregate", "score", "sweep"


@dataclass(frozen=True, eq=False)
class Benchmark:
    """What is read from the benchmark's files and made by a network."""

    embeddings: NDArray[np.float32]
    templates: NDArray[np.int64]
    media: NDArray[np.int64]
    detector_scores: NDArray[np.float32]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


def draw_benchmark(share: float) -> Benchmark:
    """Random embeddings and lists, the same for the same share."""
    rng = np.random.default_rng(0)
    num_images, num_templates, num_pairs = (
        max(round(share * num), 1) for num in (NUM_IMAGES, NUM_TEMPLATES, NUM_PAIRS)
    )
    others = rng.integers(0, num_templates, num_images - num_templates)
    return Benchmark(
        rng.standard_normal((num_images, WIDTH), np.float32),
        rng.permutation(np.append(np.arange(num_templates), others)),
        rng.integers(0, num_images // 3, num_images),
        rng.uniform(0.5, 1, num_images).astype(np.float32),
        rng.integers(0, num_templates, num_pairs),
        rng.integers(0, num_templates, num_pairs),
        rng.random(num_pairs) < NUM_GENUINE / NUM_PAIRS,
    )


def sweep(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> Roc:
    """Everything that is read off the scores."""
    roc = roc_curve(scores, same)
    tar_at_far(roc)
    equal_error_rate(roc)
    return roc


def measure_stages(benchmark: Benchmark, *, num_rounds: int) -> dict[str, tuple[float, ...]]:
    """Seconds of every stage in every round, the stages in turn."""

    def combine() -> Templates:
        return aggregate(
            benchmark.embeddings, benchmark.templates, benchmark.media,
            norm=True, detector_scores=benchmark.detector_scores,
        )  # fmt: skip

    templates = combine()
    scores = score_templates(templates, benchmark.first, benchmark.second)
    arms = {
        AGGREGATE: combine,
        SCORE: lambda: score_templates(templates, benchmark.first, benchmark.second),
        SWEEP: lambda: sweep(scores, benchmark.same),
    }
    timings = interleave(arms, num_rounds=num_rounds, num_warmup=0)
    return {name: timing.times_s for name, timing in timings.items()}


def peak_bytes() -> int | None:
    """The most memory this program has had, None where the system does not tell.

    Not resource.getrusage: its peak is inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 if found else None


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    benchmark = draw_benchmark(given.share)
    stages = measure_stages(benchmark, num_rounds=given.rounds)
    counts = {
        "num_images": len(benchmark.embeddings), "num_templates": int(benchmark.templates.max()) + 1,
        "num_pairs": len(benchmark.first), "width": WIDTH,
    }  # fmt: skip
    print(json.dumps(counts | {"stages_s": stages, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
