"""What an image costs the processor around the networks: inputs of a scaling profile, measured here.

    python -m d2r_fast.bench.host_costs

Decodes 112 x 112 PNG drawings, encodes 112 x 112 JPEG crops, and writes shards of 1,000 of them below the working
directory, flushed as `generate` flushes them. Prints one JSON line: seconds of one thread for an image, the median of
some rounds, and the bytes of an image.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d2r_fast.engine.decode import decode
from d2r_fast.engine.marker import DOCUMENT, dump, image_key
from d2r_fast.engine.rows import IdentityRow, ImageRow
from d2r_fast.engine.samples import draw_samples
from d2r_fast.engine.write import encode, write_shard

NUM_IDENTITIES, NUM_IMAGES = 50, 20
NUM_ROUNDS = 5


def measure() -> dict[str, Any]:
    """Seconds and bytes of an image."""
    with tempfile.TemporaryDirectory(prefix=".host-costs-", dir=Path.cwd()) as name:
        folder = Path(name)
        draw_samples(folder / "renders")
        renders = [path.read_bytes() for path in sorted((folder / "renders").rglob("*.png"))]
        pixels = [decode(data) for data in renders]
        crops = [encode(image, "jpg", 95) for image in pixels]
        (folder / DOCUMENT).write_bytes(dump({"plan": {}}))
        shard = _shard(crops)
        return {
            "decode_s": _median_s(lambda: [decode(data) for data in renders]) / len(renders),
            "encode_s": _median_s(lambda: [encode(image, "jpg", 95) for image in pixels]) / len(pixels),
            "write_s": _median_s(lambda: write_shard(folder, 0, format="webdataset", image_format="jpg", **shard))
            / (NUM_IDENTITIES * NUM_IMAGES),
            "png_bytes": round(statistics.mean(map(len, renders))),
            "jpg_bytes": round(statistics.mean(map(len, crops))),
        }  # fmt: skip


def _shard(crops: list[bytes]) -> dict[str, Any]:
    """Rows and images of a whole shard."""
    rows = [
        ImageRow(
            key=image_key(label, image), label=label, identity=str(label), image=image, status="written",
            source="0.png", latent=0, t=0.5, attempts=1, score=0.99, box=[8.5, 8.5, 104.5, 104.5],
            landmarks=[38.3, 51.7, 73.5, 51.5, 56.0, 71.7, 41.5, 92.4, 70.7, 92.2], cos_prototype=0.7, cos_latent=0.8,
        )
        for label in range(NUM_IDENTITIES) for image in range(NUM_IMAGES)
    ]  # fmt: skip
    people = [
        IdentityRow(label=label, identity=str(label), sources=["0.png"], prototype=[0.5] * 512, status="made")
        for label in range(NUM_IDENTITIES)
    ]
    images = {row.key: crops[place % len(crops)] for place, row in enumerate(rows)}
    return {"rows": rows, "images": images, "identities": people, "errors": []}


def _median_s(work: Callable[[], object]) -> float:
    times_s = []
    for _ in range(NUM_ROUNDS):
        started_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s)


if __name__ == "__main__":
    print(json.dumps(measure()))
