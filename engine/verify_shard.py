"""Whether one shard is what it says: its marker, its files, its tables, its images."""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from d2r_fast.engine.decode import DecodeError, decode
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.marker import (
    COUNTS,
    STATUSES,
    ShardFiles,
    document_digest,
    dump,
    image_key,
    kind_of,
    read_marker,
)
from d2r_fast.engine.rows import (
    ROWS,
    AnyImageRow,
    ConvertedRow,
    IdentityRow,
    Problem,
    TranslatedRow,
    read_table,
    row_json,
)

CROP = (112, 112, 3)
SIGNATURES = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG"}
"""First bytes of a file, by image format."""
_SHOWN = 20
"""Problems to spell out per shard."""


@dataclass(slots=True)
class Report:
    """What was found: `problems` in the order of shards; `counts` of shards, identities, bytes and images."""

    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    identities: list[str] = field(default_factory=list)
    """Names, in the order of labels."""
    folders: list[str] = field(default_factory=list)
    """Image folders of an imagefolder."""

    def add(self, other: "Report") -> None:
        self.problems += other.problems
        self.counts += other.counts
        self.identities += other.identities
        self.folders += other.folders


def verify_shard(folder: Path, document: Mapping[str, Any], shard: int, *, quick: bool) -> Report:
    """Check one shard. Its problems are capped: where everything is wrong, some lines of it say so."""
    report = Report()
    found = list(_shard_problems(folder, document, shard, quick, report))
    report.problems = found[:_SHOWN]
    if len(found) > _SHOWN:
        report.problems.append(f"shard {shard:05d}: {len(found) - _SHOWN} more problems")
    return report


def _shard_problems(
    folder: Path, document: Mapping[str, Any], shard: int, quick: bool, report: Report
) -> Iterator[str]:
    """Checks from the outside in; what stands on a broken file is not looked at."""
    names = ShardFiles.of(shard)
    try:
        marker = read_marker(folder, shard, format=document["format"], dataset=document_digest(document))
    except ValueError as error:
        yield f"shard {shard:05d} is not finished: {error}"
        return
    if (folder / names.stats).read_bytes() != dump(marker):
        yield f"{names.stats} was changed"
    report.counts.update({name: marker[name] for name in COUNTS} | {"shards": 1})
    report.counts["bytes"] += sum(entry["bytes"] for entry in marker["files"].values())
    broken = [
        name for name, entry in marker["files"].items() if sha256_file(folder / name) != entry["sha256"]
    ]
    yield from (f"{name} does not have the SHA-256 that {names.stats} gives it" for name in broken)
    if broken:
        return
    try:
        rows = read_table(ROWS[kind_of(document)], folder / names.rows)
        identities = read_table(IdentityRow, folder / names.identities)
    except ValueError as error:
        yield str(error)
        return
    report.counts["identities"] += len(identities)
    report.identities = [row.identity for row in identities]
    found = [*_table_problems(document["plan"], shard, rows, identities, marker)]
    found += _error_problems(folder / names.errors, set(report.identities))
    yield from found
    if found:
        return
    suffix = document["recipe"]["image_format"]
    written = [row for row in rows if row.status == "written"]
    if document["format"] == "imagefolder":
        report.folders = sorted({row.identity for row in written})
        yield from _image_folder_problems(folder, written, suffix, set(marker["files"]), names, quick)
    elif not quick:
        yield from _tar_problems(folder / names.tar, written, suffix)


def _table_problems(
    plan: Mapping[str, int], shard: int, rows: Sequence[AnyImageRow], identities: Sequence[IdentityRow],
    marker: Mapping[str, Any],
) -> Iterator[str]:  # fmt: skip
    """The tables hold exactly the planned images and identities, each with one fate."""
    names = ShardFiles.of(shard)
    first = shard * plan["identities_per_shard"]
    labels = range(first, min(first + plan["identities_per_shard"], plan["num_identities"]))
    span = f"labels {labels[0]} to {labels[-1]}"
    planned = _planned(plan, labels, identities)
    if [(row.label, row.image) for row in rows] != planned:
        yield f"{names.rows} does not hold the {len(planned)} images of {span}, each once"
    if [row.label for row in identities] != list(labels):
        yield f"{names.identities} does not hold {span}, each once"
    by_label = {row.label: row.identity for row in identities}
    for row in rows:
        if row.key != image_key(row.label, row.image) or by_label.get(row.label) != row.identity:
            yield f"{names.rows}: {row.key} has another label, image number or identity than its place"
        yield from _source_problems(row, identities, first, names.rows)
        if row.status not in STATUSES or (row.reason is None) != (row.status == "written"):
            yield f"{names.rows}: {row.key} has status {row.status!r} and reason {row.reason!r}"
    found = Counter(row.status for row in rows)
    if len(rows) != marker["wanted"] or any(found[status] != marker[status] for status in STATUSES):
        yield f"{names.stats} counts other images than {names.rows} holds"


def _planned(
    plan: Mapping[str, int], labels: range, identities: Sequence[IdentityRow]
) -> list[tuple[int, int]]:
    """Label and number of every image that the plan has, or where it gives no number, one for each source."""
    if "images_per_identity" in plan:
        return [(label, image) for label in labels for image in range(plan["images_per_identity"])]
    return [(row.label, image) for row in identities for image in range(len(row.sources))]


def _source_problems(
    row: AnyImageRow, identities: Sequence[IdentityRow], first: int, table: str
) -> Iterator[str]:
    """A translated image stands at its source's place, and has a size where it is written."""
    if not isinstance(row, TranslatedRow):
        return
    place = row.label - first
    sources = identities[place].sources if 0 <= place < len(identities) else ()
    if not 0 <= row.image < len(sources) or row.source != sources[row.image]:
        yield f"{table}: {row.key} has another source than its identity's list"
    if row.status == "written" and not (row.height and row.width):
        yield f"{table}: {row.key} is written and has no size"


def _error_problems(path: Path, identities: set[str]) -> Iterator[str]:
    wanted = {f.name for f in fields(Problem)}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            error = json.loads(line)
        except ValueError:
            error = None
        if not isinstance(error, dict) or set(error) != wanted or error["identity"] not in identities:
            yield f"{path.name}: line {number} is no error of an identity of this shard"


def _tar_problems(path: Path, written: Sequence[AnyImageRow], suffix: str) -> Iterator[str]:
    """The tar holds every member of every written image, in order, and nothing else."""
    expected = [(row, ending) for row in written for ending in sorted(("cls", "json", row.suffix(suffix)))]
    try:
        with tarfile.open(path, "r:") as tar:
            members = iter(tar)
            for row, ending in expected:
                member = next(members, None)
                if member is None or member.name != f"{row.key}.{ending}":
                    found = member.name if member else "nothing"
                    yield f"{path.name} has {found} in the place of {row.key}.{ending}"
                    return
                stream = tar.extractfile(member)
                problem = _member_problem(row, ending, stream.read() if stream else b"")
                if problem:
                    yield f"{path.name}: {member.name} {problem}"
            extra = next(members, None)
            if extra is not None:
                yield f"{path.name} has {extra.name} that no row knows"
    except (tarfile.TarError, EOFError) as error:
        yield f"{path.name} is no whole tar file ({error})"


def _member_problem(row: AnyImageRow, ending: str, data: bytes) -> str | None:
    if ending == "cls":
        return None if data == str(row.label).encode() else f"is not the label {row.label}"
    if ending == "json":
        return None if data == row_json(row) else "is not the row of the table"
    return _image_problem(row, data, ending)


def _image_problem(row: AnyImageRow, data: bytes, suffix: str) -> str | None:
    copied = isinstance(
        row, ConvertedRow
    )  # what a source called its files, and their sizes, are as they were
    if not copied and not data.startswith(SIGNATURES[suffix]):
        return f"is no {suffix} file"
    try:
        shape = decode(data, min_side=1).shape
    except DecodeError as error:
        return f"cannot be decoded: {error.reason}"
    if copied:
        return None
    height, width, _ = CROP if not isinstance(row, TranslatedRow) else (row.height, row.width, 3)
    return None if shape == (height, width, 3) else f"is {shape[1]}x{shape[0]}, not {width}x{height}"


def _image_folder_problems(
    folder: Path,
    written: Sequence[AnyImageRow],
    suffix: str,
    listed: set[str],
    names: ShardFiles,
    quick: bool,
) -> Iterator[str]:
    """The marker lists every written image and no other, and so do the identities' folders."""
    images = {f"{row.identity}/{row.file_name(suffix)}": row for row in written}
    if images.keys() != listed - set(names.listed("imagefolder")):
        yield f"{names.stats} lists other images than {names.rows} has written"
        return
    for identity in sorted({row.identity for row in written}):
        present = {f"{identity}/{path.name}" for path in (folder / identity).iterdir()}
        yield from (f"{name} is an image that no row knows" for name in sorted(present - images.keys()))
    for name in sorted(images) if not quick else ():
        problem = _image_problem(images[name], (folder / name).read_bytes(), suffix)
        if problem:
            yield f"{name} {problem}"
