"""How long the identity filter takes at DigiFace-1M's size, and how much memory.

Makes synthetic prototypes of random directions, runs `d2r-fast rank-identities` on them in a process of its
own, prints the matrix-product floor first and one JSON line last:

    python bench/rank_identities.py --identities 110000 --width 512
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from d2r_fast.bench.measure import interleave
from d2r_fast.engine.embedding_file import schema


def write_prototypes(path: Path, num_identities: int, width: int) -> None:
    """One random embedding per identity."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema(width)) as writer:
        for start in range(0, num_identities, 10000):
            names = [str(index) for index in range(start, min(start + 10000, num_identities))]
            rows = rng.normal(size=(len(names), width)).astype(np.float32)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), width)
            images = pa.array(["0.png"] * len(names))
            writer.write_table(pa.Table.from_arrays([pa.array(names), images, vectors], schema=writer.schema))


def matmul_rate(width: int) -> float:
    """FLOP/s of the tile product that dominates."""
    tile = torch.randn(4096, width)
    timing = interleave({"tile": lambda: tile @ tile.T})["tile"]
    return 2 * 4096 * 4096 * width / timing.median_s


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identities", type=int, default=110_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    rate = matmul_rate(given.width)
    floor_s = given.identities**2 * given.width / rate  # half of a full product: the matrix is symmetric
    print(f"floor: {floor_s:.1f} s of matrix products at {rate / 1e9:.0f} GFLOP/s")
    program = Path(sys.executable).with_name("d2r-fast")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.parquet"
        write_prototypes(path, given.identities, given.width)
        command = [str(program), "rank-identities", str(path), "--out", f"{folder}/ranking.csv"]
        arms = {"rank": lambda: subprocess.run(command, check=True)}
        times_s = interleave(arms, num_rounds=given.repeats, num_warmup=0)["rank"].times_s
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    result = {
        "bench": "rank_identities", "identities": given.identities, "width": given.width,
        "median_s": round(statistics.median(times_s), 2), "min_s": round(min(times_s), 2),
        "max_s": round(max(times_s), 2), "floor_s": round(floor_s, 2), "peak_rss_gb": round(peak_kib * 1024 / 1e9, 2),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine(),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
