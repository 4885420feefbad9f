"""Sources of which a hundredth is spoilt in each of nine ways: exactly what cannot be used is recorded, with its stage,
and the rest comes out as if nothing had been.

What cannot be used is decided by the engine's documented rules. `translate` reads whatever decodes, CMYK, 16 bits and
garbage in the EXIF block, and its method refuses what is too small for it; it looks for no faces. `embed` aligns the
largest face, so one without a face is recorded and one with two is not.
"""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from d2r_fast.bench.drill import spoil
from d2r_fast.bench.drill.counts import account, tar_members
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard, make_models, make_renders, picture, png

TRANSLATE = {"0 bytes": "decode", "truncated JPEG": "decode", "text named .jpg": "decode", "1x1": "translate"}
EMBED = {"0 bytes": "decode", "truncated JPEG": "decode", "text named .jpg": "decode", "1x1": "decode",
         "no face": "detect"}  # fmt: skip
"""Kinds that cannot be used, and the stage that finds it."""
FACE_SIDE = 112


@dataclass(frozen=True)
class Spoilt:
    """Two sources that differ in the spoilt images alone: what was done to which, by (identity, file stem)."""

    good: Path
    bad: Path
    kinds: dict[tuple[str, str], str]

    def wrong(self, stages: dict[str, str]) -> dict[tuple[str, str], str]:
        """Those that cannot be used, and the stage that should say so."""
        return {key: stages[kind] for key, kind in self.kinds.items() if kind in stages}


def drill(yard: Yard) -> list[Outcome]:
    """10,000 images through `translate`, 900 through `embed` with MTCNN."""
    return [
        translated(yard, num_images=200 if yard.quick else 10_000),
        embedded(yard, num_images=36 if yard.quick else 900),
    ]


def translated(yard: Yard, *, num_images: int) -> Outcome:
    """Translates both sources."""
    rng = yard.rng("inputs")
    pictures = [picture(rng, 16) for _ in range(num_images)]
    spoilt = spoil_some(yard.folder / "translate", pictures, rng)
    outs = {name: yard.folder / f"translated-{name}" for name in ("good", "bad")}
    yard.done(yard.translate(spoilt.good, outs["good"], identities_per_shard=2, num_threads=2))
    ended = yard.run(yard.translate(spoilt.bad, outs["bad"], identities_per_shard=2, num_threads=2))
    wanted, found = spoilt.wrong(TRANSLATE), _recorded(outs["bad"])
    images = {name: _images(out) for name, out in outs.items()}
    same = {key for key, data in images["good"].items() if images["bad"].get(key) == data}
    missing = {key for key in images["good"] if key not in images["bad"] and key not in wanted}
    changed = set(images["good"]) - same - missing - set(spoilt.kinds)
    problems = account(outs["bad"], wanted=num_images)
    return Outcome(
        fault=f"{num_images:,} inputs, {len(spoilt.kinds)} of them spoilt in nine ways, to translate",
        wanted=f"end 0 or 3; the {len(wanted)} that cannot be used recorded with their stage, no other; the rest as "
        "without",
        found=f"end {ended.status}; {_compared(wanted, found)}; {len(changed)} good images differ, "
        f"{len(missing)} are lost",
        met=ended.status in (0, 3) and wanted == found and not changed and not missing and not problems,
        note="0 bytes, truncated, text: decode; 1x1: the method takes no such side; CMYK, 16 bit, EXIF garbage decode; "
        "translate looks for no faces" + (f"; {problems[0]}" if problems else ""),
    )


def embedded(yard: Yard, *, num_images: int) -> Outcome:
    """Embeds both sources: faces found by MTCNN's own weights, crops recognised by an untrained network."""
    rng = yard.rng("faces")
    faces, models = yard.folder / "faces", yard.folder / "models"
    import_module("d2r_fast.engine.embed")  # for all copies at once
    make_renders(faces, num_identities=min(12, num_images // 6), images=6)
    make_models(models)
    drawn = [Image.open(path).convert("RGB") for path in sorted(faces.glob("*/*"))]
    pictures = [_shaded(drawn[number % len(drawn)], number, rng) for number in range(num_images)]
    spoilt = spoil_some(yard.folder / "embed", pictures, rng)
    outs = {name: yard.folder / f"{name}.parquet" for name in ("good", "bad")}
    for name, source, run in (("good", spoilt.good, yard.rehearse), ("bad", spoilt.bad, yard.done)):
        run([
            "embed", str(source), "--models", str(models), "--out", str(outs[name]), "--source-alignment", "detect",
            "--device", "cpu",
        ])  # fmt: skip
    wanted, found = spoilt.wrong(EMBED), _listed(outs["bad"].with_name("bad.parquet.errors.jsonl"))
    clean, rows = _embeddings(outs["good"]), _embeddings(outs["bad"])
    changed = {key for key, value in clean.items() if key not in spoilt.kinds and rows.get(key) != value}
    kept = set(spoilt.kinds) - set(wanted)
    return Outcome(
        fault=f"{num_images:,} inputs, {len(spoilt.kinds)} of them spoilt in nine ways, to embed",
        wanted=f"end 0; the {len(wanted)} that cannot be used recorded with their stage, no other; the rest as without",
        found=f"end 0; {_compared(wanted, found)}; {len(changed)} good embeddings differ, "
        f"{len(kept - set(rows))} are lost",
        met=wanted == found and not changed and kept <= set(rows),
        note="drawn faces, MTCNN's published weights; no face: detect; of two faces the largest is taken",
    )


def spoil_some(folder: Path, pictures: list[Image.Image], rng: np.random.Generator) -> Spoilt:
    """Both sources, 50 images an identity; a hundredth of the images, and one at least, is spoilt in each way."""
    each = max(len(pictures) // 100, 1)
    places = rng.permutation(len(pictures))[: each * len(spoil.KINDS)].tolist()
    kinds = {
        place: name for name, some in zip(spoil.KINDS, _chunks(places, each), strict=True) for place in some
    }
    planted = {}
    for number, image in enumerate(pictures):
        identity, stem = f"{number // 50:04d}", f"{number % 50:02d}"
        good, bad = folder / "good" / identity, folder / "bad" / identity
        good.mkdir(parents=True, exist_ok=True)
        bad.mkdir(parents=True, exist_ok=True)
        (good / f"{stem}.png").write_bytes(png(image))
        if number in kinds:
            deed, suffix = spoil.KINDS[kinds[number]]
            (bad / f"{stem}.{suffix}").write_bytes(deed(image, rng))
            planted[identity, stem] = kinds[number]
        else:
            (bad / f"{stem}.png").hardlink_to(good / f"{stem}.png")
    return Spoilt(folder / "good", folder / "bad", planted)


def _chunks(places: list[int], size: int) -> list[list[int]]:
    return [places[first : first + size] for first in range(0, len(places), size)]


def _shaded(image: Image.Image, number: int, rng: np.random.Generator) -> Image.Image:
    """A drawn face in its own light, so that no two images are the same."""
    gain = 0.8 + 0.2 * rng.random()
    face = image.resize((FACE_SIDE, FACE_SIDE)).point(lambda value: int(value * gain))
    face.putpixel((0, 0), (number % 256, number // 256, 0))
    return face


def _recorded(out: Path) -> dict[tuple[str, str], str]:
    """Stage of every problem that a dataset's shards list."""
    found: dict[tuple[str, str], str] = {}
    for path in out.glob("*_errors.jsonl"):
        found |= _listed(path)
    return found


def _listed(path: Path) -> dict[tuple[str, str], str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["identity"], Path(line["key"]).stem): line["stage"] for line in lines}


def _images(out: Path) -> dict[tuple[str, str], bytes]:
    """A dataset's images by what they were made of."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        for key, members in tar_members(path).items():
            row = json.loads(members["json"])
            assert row["key"] == key
            found[row["identity"], Path(row["source"]).stem] = members["png"]
    return found


def _embeddings(path: Path) -> dict[tuple[str, str], list[float]]:
    table = pq.read_table(path, use_threads=False).to_pydict()
    keys = zip(table["identity"], map(lambda name: Path(name).stem, table["image"]), strict=True)
    return dict(zip(keys, table["embedding"], strict=True))


def _compared(wanted: dict[tuple[str, str], str], found: dict[tuple[str, str], str]) -> str:
    right = sum(found.get(key) == stage for key, stage in wanted.items())
    return f"{right} of {len(wanted)} recorded so, {len(found.keys() - wanted.keys())} others"
