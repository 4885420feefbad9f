"""A producer without networks: shards are a pure function of their number, with every fate of an image."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.marker import WORKERS, image_key, is_events
from d2r_fast.engine.rows import IdentityRow, ImageRow, Problem
from d2r_fast.engine.write import encode, write_shard


def make_document(
    *,
    num_identities: int = 7,
    images: int = 4,
    per_shard: int = 3,
    format: str = "webdataset",
    seed: int = 0,
    image_format: str = "jpg",
) -> dict[str, Any]:
    """A dataset.json with the fields that the real one has."""
    return {
        "schema": 1,
        "format": format,
        "recipe": {
            "seed": seed,
            "steps": 25,
            "alpha": 2.0,
            "clip_offset": None,
            "image_format": image_format,
        },
        "models": {"arc2face": {"file": "arc2face/model.safetensors", "sha256": "ab" * 32, "licence": "MIT"}},
        "models_kind": "released",
        "source": {"fingerprint": "cd" * 32},
        "versions": {"d2r-fast": "0.1.0"},
        "licences": ["MIT"],
        "plan": {
            "num_identities": num_identities,
            "images_per_identity": images,
            "wanted": num_identities * images,
            "identities_per_shard": per_shard,
            "num_shards": -(-num_identities // per_shard),
        },
    }


def identity_name(label: int) -> str:
    return f"né {label}"


def make_image(seed: int, label: int, image: int) -> np.ndarray:
    """uint8 (112, 112, 3): a smooth pattern that no other image has."""
    y, x = np.mgrid[0:112, 0:112]
    phase = np.array([label * 0.7, image * 1.3, seed + label + image])
    wave = np.sin(x[..., None] / 9 + phase) + np.cos(y[..., None] / 7 - phase)
    return np.clip(127 + 60 * wave, 0, 255).astype(np.uint8)


def make_rows(document: dict[str, Any], shard: int) -> dict[str, Any]:
    """What `write_shard` takes. Identity 2 fails as a whole; here and there an image is rejected."""
    plan = document["plan"]
    first = shard * plan["identities_per_shard"]
    made: dict[str, Any] = {"rows": [], "images": {}, "identities": [], "errors": []}
    for label in range(first, min(first + plan["identities_per_shard"], plan["num_identities"])):
        (_fail if label == 2 else _draw)(document, label, made)
    return made


def _fail(document: dict[str, Any], label: int, made: dict[str, Any]) -> None:
    name, reason = identity_name(label), "no renders"
    made["identities"].append(
        IdentityRow(label=label, identity=name, sources=[], status="failed", reason=reason)
    )
    made["errors"].append(
        Problem(stage="embed", identity=name, key="0.png", error="DecodeError", reason="empty file")
    )
    for image in range(document["plan"]["images_per_identity"]):
        key = image_key(label, image)
        made["rows"].append(
            ImageRow(key=key, label=label, identity=name, image=image, status="failed", reason=reason)
        )


def _draw(document: dict[str, Any], label: int, made: dict[str, Any]) -> None:
    name, recipe = identity_name(label), document["recipe"]
    prototype = np.random.default_rng(label).normal(size=16).astype(np.float32).tolist()
    made["identities"].append(
        IdentityRow(
            label=label, identity=name, sources=["0.png", "1.png"], prototype=prototype, status="used"
        )
    )
    for image in range(document["plan"]["images_per_identity"]):
        key = image_key(label, image)
        row = ImageRow(
            key=key,
            label=label,
            identity=name,
            image=image,
            status="rejected",
            reason="no face",
            source="0.png",
            latent=image // 2,
            t=1 / (image + 3),
            attempts=1,
        )
        if (label + image) % 5 == 4:
            made["errors"].append(
                Problem(stage="detect", identity=name, key=key, error="NoFace", reason="no face")
            )
        else:
            found = {"score": 0.99, "box": [1.0, 2.0, 3.5, 4.0], "landmarks": [float(i) for i in range(10)]}
            row = replace(row, status="written", reason=None, cos_prototype=0.1 * image, **found)
            made["images"][key] = encode(make_image(recipe["seed"], label, image), recipe["image_format"], 95)
        made["rows"].append(row)


def write(folder: Path, document: dict[str, Any], shard: int) -> dict[str, Any]:
    """Make and write one shard."""
    formats = {"format": document["format"], "image_format": document["recipe"]["image_format"]}
    return write_shard(folder, shard, **make_rows(document, shard), **formats)


def open_dataset(folder: Path, document: dict[str, Any]) -> Dataset:
    """Open a dataset's folder and put its document there."""
    dataset = Dataset.open(folder, document)
    dataset.begin()
    return dataset


def make_dataset(folder: Path, document: dict[str, Any]) -> Path:
    """Make the whole dataset, or go on making it, as `generate` does."""
    with open_dataset(folder, document) as dataset:
        dataset.log("start")
        for shard in dataset.unfinished:
            write(folder, document, shard)
            dataset.log("shard", shard=shard)
        dataset.finish()
    return folder


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that is part of the dataset's identity, by relative name."""
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    own = [name for name in names if name.parts[0] not in {".lock", WORKERS} and not is_events(name.name)]
    return {str(name): hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in own}


def names_in(folder: Path) -> list[str]:
    """Names of all that lies in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())
