"""`models check`: what a model folder holds, and whether its files are whole and fit together.

Weights are not loaded: names and shapes come from the files' headers and are compared with what the configs
ask for; bytes are compared with the sha256 in models.json where the folder has one.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.models.card import read_card
from d2r_fast.engine.models.contents import DamagedError, read_graph, read_json, read_tensors
from d2r_fast.engine.models.fit import Found, misfits, summarise
from d2r_fast.engine.models.layout import HASHING_THREADS, PARTS, Part, licence_of

Status = Literal["ok", "missing", "damaged", "optional-missing"]


@dataclass(frozen=True, slots=True)
class Row:
    """One file of the layout; what a file that is not there, or is unreadable, cannot tell is None."""

    file: str
    status: Status
    num_bytes: int | None = None
    sha256: str | None = None
    shape: str | None = None
    num_parameters: int | None = None
    licence: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A model folder, file by file."""

    folder: Path
    origin: str
    rows: tuple[Row, ...]

    @property
    def complete(self) -> bool:
        """Whether every file that a run needs is there, and none that is there is damaged."""
        return all(row.status in ("ok", "optional-missing") for row in self.rows)


def check_models(folder: Path) -> Report:
    """Read a model folder's headers and hash its files.

    Raises:
        UserError: no such folder, one that may not be looked into, or a models.json that is none.
    """
    try:
        return _check(folder)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be read ({error.strerror}): give a folder you may read"
        ) from None


def _check(folder: Path) -> Report:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: make one with `d2r-fast models pull` or `models init`")
    card, found = read_card(folder), Found()
    files = {part: _files(part, folder) for part in PARTS}
    digests = _hash(folder, [file for part in PARTS for file in files[part] if (folder / file).is_file()])
    problems: dict[str, list[str]] = defaultdict(list)
    for file, problem in (*_read(folder, digests.keys(), files, found), *_changed(digests, card)):
        problems[file].append(problem)
    for part in PARTS:
        problems[files[part][-1]] += misfits(part, found)
    rows = [
        _row(folder, part, file, digests[file], found, problems[file], card)
        if file in digests
        else _missing(part, file)
        for part in PARTS
        for file in files[part]
    ]
    return Report(folder, _origin(card), tuple(rows))


def _files(part: Part, folder: Path) -> list[str]:
    """A part's files, relative to the folder: its config, then the weights there are or else preferred."""
    weights = part.find_weights(folder)
    chosen = [weights.relative_to(folder).as_posix()] if weights else list(part.weights[:1])
    return ([part.config] if part.config else []) + chosen


def _hash(folder: Path, files: list[str]) -> dict[str, str | None]:
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        return dict(zip(files, threads.map(_digest, (folder / file for file in files)), strict=True))


def _digest(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except OSError:
        return None  # its row says that it cannot be read


def _read(
    folder: Path, there: Collection[str], files: dict[Part, list[str]], found: Found
) -> Iterator[tuple[str, str]]:
    """Read into `found` what is there; yields (file, problem) for what cannot be read."""
    for part, file in ((owner, file) for owner in PARTS for file in files[owner] if file in there):
        try:
            if file == part.config:
                found.configs[part] = read_json(folder / file)
            elif file.endswith(".onnx"):
                found.graphs[part] = read_graph(folder / file)
            else:
                found.tensors[part] = read_tensors(folder / file)
        except DamagedError as error:
            yield file, str(error)
        except OSError as error:
            yield file, f"cannot be read ({error.strerror or error})"


def _changed(digests: dict[str, str | None], card: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    listed = card["files"] if card else {}
    for file, digest in digests.items():
        if digest is not None and file in listed and listed[file]["sha256"] != digest:
            yield file, "not the bytes that models.json lists"


def _row(
    folder: Path,
    part: Part,
    file: str,
    sha256: str | None,
    found: Found,
    problems: list[str],
    card: dict[str, Any] | None,
) -> Row:
    contents = found.graphs.get(part) or found.tensors.get(part)
    described = file != part.config and contents is not None
    unused = [other for other in part.weights if other != file and (folder / other).is_file()]
    notes = problems + [f"{other} is there too and not used" for other in unused if file != part.config]
    return Row(
        file,
        "damaged" if problems else "ok",
        num_bytes=(folder / file).stat().st_size,
        sha256=sha256,
        shape=summarise(part, found) if described else None,
        num_parameters=contents.num_values if described and contents else None,
        licence=licence_of(file, card),
        note="; ".join(notes),
    )


def _missing(part: Part, file: str) -> Row:
    others = [other for other in part.weights if other != file and file != part.config]
    if part.optional_for:
        return Row(file, "optional-missing", note=f"needed for {part.optional_for} alone")
    return Row(file, "missing", note=f"or {' or '.join(others)}" if others else "")


def _origin(card: dict[str, Any] | None) -> str:
    if card is None:
        return "put together by hand: no models.json"
    if card["kind"] == "random":
        return f"random weights, untrained: size {card.get('size')}, seed {card.get('seed')}"
    return {"released": "released weights", "miniature": "the trained miniature"}[card["kind"]]


def render(report: Report) -> str:
    """The report as text: one block per file, then the verdict."""
    blocks = [f"{report.folder}: {report.origin}", *(_block(row) for row in report.rows), _verdict(report)]
    return "\n".join(blocks)


def _block(row: Row) -> str:
    size = None if row.num_bytes is None else f"{row.num_bytes:,} bytes"
    values = None if row.num_parameters is None else f"{row.num_parameters:,} parameters"
    facts = ", ".join(fact for fact in (size, values, row.shape) if fact)
    lines = [f"{row.status:<16} {row.file}", facts, row.sha256 and f"sha256 {row.sha256}",
             row.licence and f"licence: {row.licence}", row.note]  # fmt: skip
    return f"\n{'':17}".join(line for line in lines if line)


def _verdict(report: Report) -> str:
    counts = {status: sum(row.status == status for row in report.rows) for status in ("missing", "damaged")}
    if report.complete:
        return "complete"
    wrong = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"not complete: {wrong}; `d2r-fast models pull` fetches the released files"
