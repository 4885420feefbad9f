"""Whether a dataset is what it says: every file, every image, every count.

    report = verify(folder)
    report.problems  # empty where all is well

Shards are checked one at a time, or one per process, so memory does not grow with the dataset. Nothing is
written and no lock is taken; a dataset still being made shows its unfinished shards.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

from d2r_fast.engine.ahead import ahead
from d2r_fast.engine.console import Meter, say
from d2r_fast.engine.dataset import logs
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import stale
from d2r_fast.engine.marker import (
    CARD,
    COMMANDS,
    CONVERTED,
    COUNTS,
    DOCUMENT,
    GENERATED,
    SCHEMA,
    SUCCESS,
    WORKERS,
    Format,
    ShardFiles,
    kind_of,
    read_document,
    shard_number,
)
from d2r_fast.engine.remote import Remote
from d2r_fast.engine.remote_dataset import outline, shard_copy
from d2r_fast.engine.rows import ROWS
from d2r_fast.engine.verify_shard import SIGNATURES, Report, verify_shard

_IMAGES_PER_WORKER = 20_000
"""Fewer are checked sooner than another process starts."""


def run_verify(place: Path | str, *, quick: bool = False) -> int:
    """The `verify` command: print what is wrong, say what was checked; 0 where all is well, else 1.

    Args:
        place: the dataset's folder, or its URL: then its shards are fetched one at a time, and deleted.

    Raises:
        UserError: `place` is no dataset.
        RunError: the network failed.
    """
    if isinstance(place, Path):
        return _run(place, quick=quick)
    remote = Remote(place)
    with outline(remote) as folder:
        return _run(folder, quick=quick, remote=remote)


def _run(folder: Path, *, quick: bool, remote: Remote | None = None) -> int:
    wanted = _document(folder, remote)["plan"].get("wanted")
    useful = 1 + wanted // _IMAGES_PER_WORKER if isinstance(wanted, int) else 1
    num_cores = len(os.sched_getaffinity(0))
    num_workers = num_cores if quick else min(num_cores, useful)
    if remote is not None and remote.in_process:
        num_workers = 1
    report = verify(folder, quick=quick, num_workers=num_workers, remote=remote)
    for problem in report.problems:
        print(problem)
    counts = report.counts
    images = ", ".join(f"{counts[name]:,} {name}" for name in COUNTS)
    say(f"checked {counts['shards']:,} shards, {counts['bytes']:,} bytes, images: {images}")
    say(
        f"{remote or folder}: {len(report.problems)} problems"
        if report.problems
        else f"{remote or folder} is complete and intact"
    )
    return 1 if report.problems else 0


def _document(folder: Path, remote: Remote | None) -> dict[str, Any]:
    if remote is not None and not (folder / DOCUMENT).exists():
        raise UserError(f"{remote} holds no {DOCUMENT}, so it is no dataset of d2r-fast: check the address")
    return read_document(folder)


def verify(
    folder: Path, *, quick: bool = False, num_workers: int = 1, remote: Remote | None = None
) -> Report:
    """Check the dataset in `folder` against all that its format promises.

    That is: the document; of every shard its marker, its files' sizes and SHA-256, its tables against the
    plan and the counts, and its images against the tables, each decoded; no name twice; nothing left over;
    the success marker. `quick` leaves the images closed: their SHA-256 still says that they are as written. With
    `remote` the folder is an outline of it, and the shards are fetched from there.

    Raises:
        UserError: `folder` is no dataset, or its document cannot be read.
    """
    document = read_document(folder)
    report = Report(problems=list(_document_problems(document)))
    if report.problems:
        return report
    check = (
        partial(verify_shard, folder, document, quick=quick)
        if remote is None
        else partial(_verify_remote, remote, document, quick=quick)
    )
    num_shards = document["plan"]["num_shards"]
    with Meter("verify", total=num_shards, unit="shards") as meter:
        for found in _spread(check, num_shards, num_workers, quick=quick):
            report.add(found)
            meter.advance(1, note=f"{len(report.problems)} problems")
    whole = report.counts["shards"] == num_shards
    if whole and report.counts["wanted"] != document["plan"]["wanted"]:
        report.problems.append("dataset.json: wanted is not what the shards hold")
    report.problems += _name_problems(report.identities)
    report.problems += _folder_problems(folder, document, report.folders if whole else None)
    for name in logs(folder):
        report.problems += _event_problems(folder / name)
    return report


def _verify_remote(remote: Remote, document: Mapping[str, Any], shard: int, *, quick: bool) -> Report:
    with shard_copy(remote, document, shard) as folder:
        return verify_shard(folder, document, shard, quick=quick)


def _spread(check: "partial[Report]", num_shards: int, num_workers: int, *, quick: bool) -> Iterator[Report]:
    if num_workers <= 1:
        yield from map(check, range(num_shards))
        return
    if quick:  # SHA-256 lets go of the interpreter
        with ThreadPoolExecutor(num_workers) as pool:
            yield from ahead(pool, check, range(num_shards), depth=2 * num_workers)
        return
    # Processes, since decoding a small image holds the interpreter; fresh ones, since a fork copies locks.
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(check, range(num_shards))


def _document_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What the rest relies on."""
    if document.get("schema") != SCHEMA:
        yield f"dataset.json has schema {document.get('schema')!r}, this version knows {SCHEMA}"
    if document.get("format") not in get_args(Format):
        yield f"dataset.json has format {document.get('format')!r}"
    recipe = document.get("recipe")
    kind, plan = kind_of(document), document["plan"]
    if not isinstance(recipe, dict) or not _is_image_format(recipe.get("image_format"), kind):
        yield "dataset.json names no image format"
    if kind not in ROWS:
        yield f"dataset.json has kind {kind!r}"
    names = ["num_identities", "identities_per_shard", "num_shards", "wanted"]
    names += ["images_per_identity"] if kind == GENERATED else []
    if not all(type(plan.get(name)) is int and plan[name] >= 1 for name in names):
        yield "dataset.json has no whole plan"
    elif kind == GENERATED and plan["wanted"] != plan["num_identities"] * plan["images_per_identity"]:
        yield "dataset.json: wanted is not identities times images"
    elif plan["num_shards"] != -(-plan["num_identities"] // plan["identities_per_shard"]):
        yield "dataset.json: the shards do not hold the identities"


def _is_image_format(given: Any, kind: str) -> bool:
    """A converted dataset may have several, as in "jpg;png"."""
    if kind == CONVERTED:
        return isinstance(given, str) and given != ""
    return given in tuple(SIGNATURES)


def _name_problems(identities: Sequence[str]) -> Iterator[str]:
    yield from (
        f"identity {name} has {count} labels" for name, count in Counter(identities).items() if count > 1
    )


def _folder_problems(
    folder: Path, document: Mapping[str, Any], image_folders: Sequence[str] | None
) -> Iterator[str]:
    """Leftovers beside the shards. `image_folders`: those of all shards, None while some are unfinished."""
    num_shards = document["plan"]["num_shards"]
    ours = {name for shard in range(num_shards) for name in ShardFiles.of(shard).all(document["format"])}
    for path in sorted(folder.iterdir()):
        if path.name not in ours and (
            shard_number(path.name) is not None or path.suffix in {".tar", ".parquet"}
        ):
            yield f"{path.name} is no file of this dataset"
    if image_folders is None:
        return
    yield from (f"{path.name} was left over by a process that was killed" for path in stale(folder))
    yield from (
        f"{name} is missing: run {COMMANDS[kind_of(document)]} again to finish"
        for name in (CARD, SUCCESS)
        if not (folder / name).exists()
    )
    if document["format"] == "imagefolder":
        folders = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
        folders.discard(WORKERS)
        yield from (
            f"{name} is a folder that no identity knows" for name in sorted(folders - set(image_folders))
        )


def _event_problems(path: Path) -> Iterator[str]:
    """The log is no part of the dataset, but every line of it must be whole."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict) or "event" not in event or not line.endswith(b"\n"):
                yield f"{path.name}: line {number} is damaged"
