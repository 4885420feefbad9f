"""Whole datasets, damaged one fault at a time: whether `verify` finds each, and says nothing of what is whole."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d2r_fast.bench.drill import child
from d2r_fast.bench.drill.child import Ended
from d2r_fast.bench.drill.faults import BOTH, FOLDERS, TARS, Fault
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard
from d2r_fast.engine.marker import dump, image_key
from d2r_fast.engine.rows import IdentityRow, TranslatedRow
from d2r_fast.engine.write import write_shard

LEAST_GB_S = 1.0
SHARD_BYTES, FILE_BYTES = 1 << 26, 1 << 20


def drill(yard: Yard) -> list[Outcome]:
    """200 faults in two formats, 20 whole datasets, and 1 GB to read."""
    source = yard.source(num_identities=6, images=4)
    for name in ("webdataset", "imagefolder"):
        yard.done(yard.translate(source, yard.folder / name, format=name, identities_per_shard=2))
    return [
        found(yard, num_faults=40 if yard.quick else 200),
        alarms(yard, source),
        rate(yard, num_shards=4 if yard.quick else 16),
    ]


def found(yard: Yard, *, num_faults: int) -> Outcome:
    """Plants each kind in turn, at random places, each in a copy of its own."""
    rng = yard.rng("faults")
    kinds = [("webdataset", fault) for fault in (*BOTH, *TARS)] + [
        ("imagefolder", fault) for fault in (*BOTH, *FOLDERS)
    ]
    missed = []
    for number in range(num_faults):
        form, fault = kinds[number % len(kinds)]
        copy = _copy(yard.folder / form, yard.folder / "damaged")
        place = fault(copy, rng)
        if not _is_found(verify(yard, copy), place):
            missed.append(f"{_name(fault)} of {place} in {form}")
        shutil.rmtree(copy)
    return Outcome(
        fault=f"{num_faults} faults planted in finished datasets",
        wanted="verify ends with 1 and names the place, every time",
        found=f"{num_faults - len(missed)} of {num_faults}"
        + (f" (first missed: {missed[0]})" if missed else ""),
        met=not missed,
        note=", ".join(dict.fromkeys(_name(fault) for _, fault in kinds)),
    )


def _copy(folder: Path, copy: Path) -> Path:
    return shutil.copytree(folder, copy)


def _name(fault: Fault) -> str:
    return str(fault.__name__).replace("_", " ")


def verify(yard: Yard, folder: Path, *flags: str) -> Ended:
    """The command's end."""
    return yard.run(["verify", str(folder), *flags])


def _is_found(ended: Ended, place: str) -> bool:
    """Whether a line names the place: the file, or its shard."""
    return (
        ended.status == 1
        and "Traceback" not in ended.said
        and (place in ended.said or place[:5] in ended.said)
    )


def alarms(yard: Yard, source: Path) -> Outcome:
    """Whole datasets, and what people do to whole datasets."""
    raised = []
    for form in ("webdataset", "imagefolder"):
        copy = _copy(yard.folder / form, yard.folder / f"whole-{form}")
        deeds: dict[str, Callable[[], object]] = {
            "as it was made": dict,
            "touched": lambda: _touch(copy),  # noqa: B023 (called here)
            "with another card": lambda: (copy / "README.md").write_text("ours"),  # noqa: B023
            "with a report": lambda: (copy / "report.html").write_text("<html>"),  # noqa: B023
            "resumed": lambda: yard.done(
                yard.translate(source, copy, format=form, identities_per_shard=2)  # noqa: B023
            ),
        }
        for name, deed in deeds.items():
            deed()
            for flags in ((), ("--quick",)):
                if verify(yard, copy, *flags).status != 0:
                    raised.append(f"{form} {name} {' '.join(flags)}")
    count = 2 * 2 * len(deeds)
    return Outcome(
        fault=f"{count} looks at whole datasets",
        wanted="no alarm",
        found=f"{len(raised)} false alarms" + (f" (first: {raised[0]})" if raised else ""),
        met=not raised,
        note=", ".join(deeds),
    )


def _touch(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path)


def rate(yard: Yard, *, num_shards: int) -> Outcome:
    """How fast sizes, SHA-256 and tables are checked, with the files in memory."""
    folder = yard.folder / "large"
    child.aside(
        lambda: _write_large(yard.folder / "webdataset", folder, num_shards), yard.folder / "large.log"
    )
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    ended = verify(yard, folder, "--quick")
    assert ended.status == 0, ended.said[-2000:]
    speed, ceiling = num_bytes / ended.seconds / 1e9, _hash_rate()
    return Outcome(
        fault=f"{num_bytes / 1e9:.2f} GB to check",
        wanted=f"at least {LEAST_GB_S:g} GB/s",
        found=f"{speed:.2f} GB/s",
        met=speed >= LEAST_GB_S,
        note=f"verify --quick, start included; one thread hashes {ceiling:.2f} GB/s here, there are "
        f"{len(os.sched_getaffinity(0))} processors",
    )


def _hash_rate() -> float:
    """GB/s of SHA-256 in one thread."""
    data, begun_s = bytes(1 << 28), time.monotonic()
    hashlib.sha256(data)
    return len(data) / (time.monotonic() - begun_s) / 1e9


def _write_large(small: Path, folder: Path, num_shards: int) -> None:
    """A dataset of large files, which are no images: a quick look does not open them."""
    folder.mkdir()
    document: dict[str, Any] = json.loads((small / "dataset.json").read_bytes())
    count = SHARD_BYTES // FILE_BYTES
    document["plan"] |= {
        "num_identities": num_shards, "wanted": num_shards * count, "identities_per_shard": 1, "num_shards": num_shards,
    }  # fmt: skip
    (folder / "dataset.json").write_bytes(dump(document))
    content = os.urandom(FILE_BYTES)
    for shard in range(num_shards):
        sources = [f"{image}.png" for image in range(count)]
        rows = [
            TranslatedRow(
                key=image_key(shard, image), label=shard, identity=f"{shard}", image=image, status="written",
                source=name, height=16, width=16,
            )
            for image, name in enumerate(sources)
        ]  # fmt: skip
        write_shard(
            folder, shard, rows=rows, images={row.key: content for row in rows},
            identities=[IdentityRow(label=shard, identity=f"{shard}", sources=sources, status="used")],
            errors=[], format="webdataset", image_format="png",
        )  # fmt: skip
    for name in ("README.md", "_SUCCESS"):
        (folder / name).write_bytes(b"")
