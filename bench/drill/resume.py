"""A finished folder, and the same command with one thing changed: refused, with what differs, and nothing touched."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from d2r_fast.bench.drill.child import Prepare
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import METHOD, Yard, make_weights, picture, png, state


@dataclass(frozen=True)
class Change:
    """Arguments that ask for another dataset, and the key that differs."""

    key: str
    arguments: list[str]
    prepare: Prepare | None = None


def drill(yard: Yard) -> list[Outcome]:
    """Settings, source, weights and version, in turn."""
    source, out = yard.source(num_identities=3, images=2), yard.folder / "out"
    yard.done(yard.translate(source, out))
    before, faults, changes = state(out), [], list(_changes(yard, source, out))
    for change in changes:
        ended = yard.run(change.arguments, prepare=change.prepare)
        if ended.status != 2:
            faults.append(f"{change.key}: status {ended.status}, {ended.last_line}")
        if f"{change.key} is" not in ended.last_line or "Traceback" in ended.said:
            faults.append(f"{change.key} is not named: {ended.last_line}")
        touched = [name for name, found in state(out).items() if before.get(name) != found]
        faults += [f"{change.key}: {name} was touched" for name in touched]
    return [
        Outcome(
            fault=f"a resume with one of {len(changes)} things changed",
            wanted="status 2, the differing key named, no file touched",
            found=f"{len(faults)} of another kind" + (f" (first: {faults[0]})" if faults else ""),
            met=not faults,
            note=", ".join(change.key for change in changes),
        )
    ]


def _changes(yard: Yard, source: Path, out: Path) -> Iterator[Change]:
    for name, value in (("seed", 1), ("size", 32), ("image_format", "jpg"), ("jpeg_quality", 80), ("identities", 2),
                        ("identities_per_shard", 2), ("backend", "onnxruntime")):  # fmt: skip
        yield Change(f"recipe.{name}", yard.translate(source, out, **{name: value}))
    yield Change("format", yard.translate(source, out, format="imagefolder"))
    more = shutil.copytree(source, yard.folder / "more" / source.name)
    (more / "00001" / "2.png").write_bytes(png(picture(yard.rng("more"), 16)))
    yield Change("source.fingerprint", yard.translate(more, out))
    other = make_weights(yard.folder / "weights", seed=1)
    yield Change(f"models.{METHOD}.sha256", yard.translate(source, out, weights=other))
    yield Change("versions.d2r-fast", yard.translate(source, out), _be_of_another_version)


def _be_of_another_version() -> None:
    import d2r_fast

    d2r_fast.__version__ = "999"
