"""A dataset of flat pictures to be reported on, and its page as a browser takes it."""

from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from d2r_fast.engine.config import Recipe
from d2r_fast.engine.rows import IdentityRow, ImageRow, Problem
from d2r_fast.engine.write import encode, write_shard

from .fakedata import open_dataset

NUM_SOURCES, NO_FACE = 2, "no face"
NAMES = ["ann", "bob", "cy", "di", "ed"]
FAILED = "1 usable of 2 images, 2 needed (source_images_per_identity)"
Crop = Callable[[int, int], np.ndarray[Any, np.dtype[np.uint8]]]


def flat(label: int, image: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((112, 112, 3), (40 * label % 256, 20 * image % 256, 128), np.uint8)


def fake_document(
    renders: Path, num_identities: int, num_images: int, per_shard: int, **changes: Any
) -> dict[str, Any]:
    recipe = Recipe(images_per_identity=num_images, source_images_per_identity=NUM_SOURCES, steps=4)
    licence = changes.pop("licence", "MIT")
    return {
        "schema": 1, "format": "webdataset", "recipe": recipe.model_dump(mode="json"),
        "models": {network: {"file": f"{network}.safetensors", "sha256": 64 * digit, "licence": licence}
                   for network, digit in (("unet", "a"), ("encoder", "b"), ("recogniser", "c"))},
        "models_kind": "released",
        "source": {"name": renders.name, "fingerprint": 64 * "d", "num_identities": num_identities},
        "versions": {"d2r-fast": "0.1.0", "torch": "2.13"}, "licences": [licence],
        "plan": {"num_identities": num_identities, "images_per_identity": num_images,
                 "wanted": num_identities * num_images, "identities_per_shard": per_shard,
                 "num_shards": -(-num_identities // per_shard)},
    } | changes  # fmt: skip


def fake_dataset(
    folder: Path, renders: Path, *, names: list[str], num_images: int = 4, per_shard: int = 2,
    shards: range | None = None, crop: Crop = flat, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """A dataset of made-up numbers, written by the real writer.

    Every seventh image is rejected, and identity 2 has failed if there is one. It is finished where no shards
    are given.
    """
    document = fake_document(renders, len(names), num_images, per_shard, **changes)
    rng = np.random.Generator(np.random.Philox(key=7))
    units = rng.normal(size=(len(names), 16)) + 0.6
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    stage_s = {"embed": 0.5, "denoise": 6.0, "vae": 2.0, "detect": 1.0, "write": 0.5}
    with open_dataset(folder, document) as dataset:
        dataset.log("start", source=str(renders), device="cpu", batch_size=8)
        for shard in shards if shards is not None else range(document["plan"]["num_shards"]):
            labels = range(shard * per_shard, min((shard + 1) * per_shard, len(names)))
            rows = [row for label in labels for row in fake_rows(rng, label, names[label], num_images)]
            written = [row for row in rows if row.status == "written"]
            write_shard(
                folder, shard, rows=rows, format=document["format"], image_format="jpg",
                images={row.key: encode(crop(row.label, row.image), "jpg", 95) for row in written},
                identities=[fake_identity(label, names[label], units[label]) for label in labels],
                errors=[
                    Problem(stage="accept", identity=r.identity, key=r.key, error="Rejected", reason=NO_FACE)
                    for r in rows
                    if r.status == "rejected"
                ],
            )  # fmt: skip
            dataset.log("shard", shard=shard, images=len(rows), stage_s=stage_s)
        if shards is None:
            dataset.finish()
            dataset.log("end")
    return document


def fake_identity(label: int, name: str, unit: np.ndarray[Any, Any]) -> IdentityRow:
    if label == 2:
        return IdentityRow(label=label, identity=name, sources=["0.png"], status="failed", reason=FAILED)
    sources = [f"{k}.png" for k in range(NUM_SOURCES)]
    return IdentityRow(label=label, identity=name, sources=sources, prototype=unit.tolist(), status="used")


def fake_rows(rng: np.random.Generator, label: int, name: str, num_images: int) -> Iterator[ImageRow]:
    ts = rng.beta(2, 2, NUM_SOURCES).tolist()
    for image in range(num_images):
        at = {"key": f"{label:06d}_{image:03d}", "label": label, "identity": name, "image": image}
        if label == 2:
            yield ImageRow(**at, status="failed", reason=FAILED)
            continue
        latent = image * NUM_SOURCES // num_images
        t = ts[latent]
        at |= {"source": f"{latent}.png", "latent": latent, "t": t}
        if (label * num_images + image) % 7 == 3:
            yield ImageRow(**at, status="rejected", reason="no face", attempts=3)
            continue
        yield ImageRow(
            **at, status="written", attempts=1 + int(rng.random() < 0.1), score=0.99, box=[1.0, 2, 3, 4],
            landmarks=[float(k) for k in range(10)], cos_prototype=float(rng.normal(0.72 - 0.2 * t, 0.06)),
            cos_latent=float(rng.normal(0.75, 0.05)),
        )  # fmt: skip


def make_renders(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        for k in range(NUM_SOURCES):
            Image.new("RGB", (112, 112), (200, 30 * k, 90)).save(folder / name / f"{k}.png")
    return folder


class Page(HTMLParser):
    """What a browser makes of the page; every element must be closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "circle", "use", "rect"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.images: list[str] = []
        self.chunks: list[str] = []
        self.feed(self.html)
        self.close()
        self.text = " ".join(" ".join(self.chunks).split())
        assert self.open == [], "elements left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.links += [
            str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")
        ]
        self.ids += [str(given["id"])] if "id" in given else []
        if tag == "img":
            self.images.append(str(given["alt"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.chunks.append(data)


def read_rows(dataset: Path) -> list[dict[str, Any]]:
    paths = sorted(path for path in dataset.glob("*.parquet") if "identities" not in path.name)
    return [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]


def one_line(caught: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
