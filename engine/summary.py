"""What a dataset amounts to: counts, distributions and times.

Tables are read piece by piece, so memory does not grow with the dataset. It need not be finished: the shards
that are finished count.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.histogram import Agreement, Histogram
from d2r_fast.engine.marker import (
    DOCUMENT,
    GENERATED,
    TRANSLATED,
    Format,
    ShardFiles,
    document_digest,
    kind_of,
    read_document,
    read_marker,
)
from d2r_fast.engine.run_log import Log, is_text, read_log

MAX_PROTOTYPES = 4000
"""Prototypes compared with each other at most: 8 million pairs."""
MAX_REASONS = 200
"""Different reasons told apart at most; what comes later counts as OTHER_REASONS."""
OTHER_REASONS = "other reasons"
NUM_EXAMPLES, EXAMPLES_PER_KIND = 8, 3
NUM_PAIRS = 4
_MOST_IMAGES = 2**53
_COUNT, _NUMBER = (int,), (int, float)
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "plan": dict.fromkeys(("num_identities", "wanted", "identities_per_shard", "num_shards"), _COUNT),
    "recipe": {"image_format": (str,)},
    "source": {"name": (str,), "num_identities": _COUNT, "fingerprint": (str,)},
    "versions": {"d2r-fast": (str,)},
    "models": {},
}
_KINDS_FIELDS: dict[str, dict[str, dict[str, tuple[type, ...]]]] = {
    GENERATED: {
        "plan": {"images_per_identity": _COUNT},
        "recipe": {"sampler": (str,), "steps": _COUNT, "guidance": _NUMBER, "alpha": _NUMBER, "attempts": _COUNT},
    },
    TRANSLATED: {"recipe": {"method": (str,)}},
}  # fmt: skip
"""What a report reads of a document, and its types: of any, then of each kind."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two identities and the cosine of their prototypes; each is a name and a render's file name."""

    cosine: float
    first: tuple[str, str]
    second: tuple[str, str]


@dataclass(slots=True)
class Summary:
    """A dataset in numbers. `statuses` counts rows of finished shards; the rest of `wanted` is pending."""

    folder: Path
    document: dict[str, Any]
    shards: list[int]
    """Finished shards."""
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(status, reason) of the images that are not written."""
    attempts: Counter[int] = field(default_factory=Counter)
    """How often the written images were drawn."""
    cos_prototype: Histogram = field(default_factory=lambda: Histogram(-1, 1, 200))
    t: Histogram = field(default_factory=lambda: Histogram(0, 1, 20))
    by_t: list[Histogram] = field(default_factory=lambda: [Histogram(-1, 1, 200) for _ in range(20)])
    """cos_prototype of the images in each bin of t."""
    latent_by_t: list[Histogram] = field(default_factory=lambda: [Histogram(-1, 1, 200) for _ in range(20)])
    """cos_latent likewise."""
    early: Agreement = field(default_factory=Agreement)
    """cos_early and cos_latent of the written images that --early-reject looked at."""
    num_identities: int = 0
    num_unusable_identities: int = 0
    num_compared: int = 0
    between: Histogram = field(default_factory=lambda: Histogram(-1, 1, 200))
    """Cosines of the prototypes of different identities."""
    pairs: list[Pair] = field(default_factory=list)
    """The most alike, in falling order."""
    problems: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(stage, error, reason)."""
    examples: list[dict[str, str]] = field(default_factory=list)
    log: Log = field(default_factory=Log)

    @property
    def wanted(self) -> int:
        return int(self.document["plan"]["wanted"])

    @property
    def pending(self) -> int:
        return self.wanted - sum(self.statuses.values())

    @property
    def num_shards(self) -> int:
        return int(self.document["plan"]["num_shards"])


def summarise(folder: Path) -> Summary:
    """Read all there is of the dataset in `folder`.

    Raises:
        UserError: it is no dataset of d2r-fast, or its document is damaged.
        RunError: a table of a finished shard is damaged.
    """
    document = read_document(folder)
    fault = document_fault(document)
    if fault is not None:
        raise UserError(f"{folder / DOCUMENT} is damaged ({fault}): put the original back")
    summary = Summary(folder, document, finished_shards(folder, document))
    chosen = _spread(int(document["plan"]["num_identities"]), MAX_PROTOTYPES)
    prototypes: list[NDArray[np.float32]] = []
    names: list[tuple[str, str]] = []
    count = _count_generated if kind_of(document) == GENERATED else _count_translated
    for shard in summary.shards:
        files = ShardFiles.of(shard)
        count(summary, folder / files.rows)
        _count_identities(summary, folder / files.identities, chosen, prototypes, names)
        _count_problems(summary, folder / files.errors)
    _compare(summary, prototypes, names)
    summary.log = read_log(folder)
    return summary


def document_fault(document: Mapping[str, Any]) -> str | None:
    """What of a document's fields a report cannot do with; None where they are all there."""
    kind = kind_of(document)
    if kind not in _KINDS_FIELDS:
        return "no usable kind"
    if not isinstance(document.get("breach"), str | None):
        return "no usable breach"
    for section, wanted in _FIELDS.items():
        given = document.get(section)
        if not isinstance(given, dict):
            return f"no {section}"
        for name, types in (wanted | _KINDS_FIELDS[kind].get(section, {})).items():
            if not _fits(given.get(name), types):
                return f"no usable {section}.{name}"
    for network, entry in document["models"].items():
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(key), str) for key in ("file", "sha256", "licence")
        ):
            return f"no usable models.{network}"
    if document.get("format") not in get_args(Format) or not isinstance(document.get("licences"), list):
        return "no usable format or licences"
    return _plan_fault(document["plan"])


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    return type(value) in types and (types == (str,) or 0 <= value < _MOST_IMAGES)


def _plan_fault(plan: Mapping[str, int]) -> str | None:
    size = plan["identities_per_shard"]
    if size < 1 or plan["num_shards"] != -(-plan["num_identities"] // size):
        return "its plan has another number of shards than its identities need"
    return None


def finished_shards(folder: Path, document: dict[str, Any]) -> list[int]:
    """Numbers of the shards whose marker says that they are whole."""
    digest, found = document_digest(document), []
    for shard in range(document["plan"]["num_shards"]):
        try:
            read_marker(folder, shard, format=document["format"], dataset=digest)
        except ValueError:
            continue
        found.append(shard)
    return found


def read_batches(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """A parquet file piece by piece: pyarrow columns by name. Raises RunError where it is damaged."""
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=8192, columns=columns, use_threads=False):
            yield {name: batch.column(name) for name in columns}
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise RunError(f"{path} is damaged ({reason}): see `d2r-fast verify {path.parent}`") from error


def _spread(num: int, at_most: int) -> set[int]:
    """Up to `at_most` numbers below `num`, evenly spread."""
    return {index * num // at_most for index in range(at_most)} if num > at_most else set(range(num))


def _tally(counter: Counter[Any], key: Any, other: Any) -> None:
    counter[key if key in counter or len(counter) < MAX_REASONS else other] += 1


def _numbers(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _count_statuses(summary: Summary, batch: dict[str, Any]) -> list[str]:
    """Counts what became of images; their statuses."""
    statuses: list[str] = batch["status"].to_pylist()
    summary.statuses.update(statuses)
    for state, reason in zip(statuses, batch["reason"].to_pylist(), strict=True):
        if state != "written":
            _tally(summary.reasons, (state, reason or "no reason given"), (state, OTHER_REASONS))
    return statuses


def _count_translated(summary: Summary, path: Path) -> None:
    for batch in read_batches(path, ["status", "reason"]):
        _count_statuses(summary, batch)


def _count_generated(summary: Summary, path: Path) -> None:
    columns = ["status", "reason", "attempts", "t", "cos_prototype", "cos_latent", "cos_early"]
    for batch in read_batches(path, columns):
        status = _count_statuses(summary, batch)
        written = np.array([state == "written" for state in status], dtype=bool)
        values = {name: _numbers(batch[name])[written] for name in columns[2:]}
        summary.attempts.update(values["attempts"].astype(int).tolist())
        summary.cos_prototype.add(values["cos_prototype"])
        summary.early.add(values["cos_early"], values["cos_latent"])
        summary.t.add(values["t"])
        bins = (
            np.nan_to_num(values["t"] * summary.t.num_bins, nan=-1)
            .clip(-1, summary.t.num_bins - 1)
            .astype(int)
        )
        for index in np.unique(bins[bins >= 0]):
            summary.by_t[index].add(values["cos_prototype"][bins == index])
            summary.latent_by_t[index].add(values["cos_latent"][bins == index])


def _count_identities(
    summary: Summary,
    path: Path,
    chosen: set[int],
    prototypes: list[NDArray[np.float32]],
    names: list[tuple[str, str]],
) -> None:
    columns = ["label", "identity", "sources", "status", "prototype"]
    for batch in read_batches(path, columns):
        rows = zip(*(batch[name].to_pylist() for name in columns if name != "prototype"), strict=True)
        for (label, identity, sources, status), prototype in zip(rows, batch["prototype"], strict=True):
            summary.num_identities += 1
            summary.num_unusable_identities += status == "failed"
            if prototype.is_valid and label in chosen:
                prototypes.append(
                    np.asarray(prototype.values.to_numpy(zero_copy_only=False), dtype=np.float32)
                )
                names.append((identity, sources[0] if sources else ""))


def _problem(line: str) -> dict[str, str]:
    """A line of an errors file. Raises ValueError where it is something else."""
    problem = json.loads(line)
    fields = ("stage", "identity", "key", "error", "reason")
    if not isinstance(problem, dict) or not all(is_text(problem.get(name)) for name in fields):
        raise ValueError("a line is no problem's")
    return problem


def _problems(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield _problem(line)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): see `d2r-fast verify {path.parent}`") from error


def _count_problems(summary: Summary, path: Path) -> None:
    for problem in _problems(path):
        key = (problem["stage"], problem["error"], problem["reason"])
        if summary.problems[key] < EXAMPLES_PER_KIND and len(summary.examples) < NUM_EXAMPLES:
            summary.examples.append(problem)
        _tally(summary.problems, key, ("", "", OTHER_REASONS))


def _compare(summary: Summary, prototypes: list[NDArray[np.float32]], names: list[tuple[str, str]]) -> None:
    """Cosine of every two prototypes, a block of rows at a time."""
    summary.num_compared = len(prototypes)
    if len(prototypes) < 2:
        return
    units = np.stack(prototypes)
    units /= np.linalg.norm(units, axis=1, keepdims=True).clip(min=1e-12)
    for start in range(0, len(units), 256):
        block = units[start : start + 256] @ units[start:].T
        i, j = np.triu_indices(len(block), 1, block.shape[1])
        cosines = block[i, j]
        summary.between.add(cosines)
        most = min(NUM_PAIRS, cosines.size)
        for place in np.argpartition(cosines, -most)[-most:] if most else ():
            first, second = names[start + i[place]], names[start + j[place]]
            summary.pairs.append(Pair(float(cosines[place]), first, second))
        summary.pairs = sorted(summary.pairs, key=lambda pair: -pair.cosine)[:NUM_PAIRS]
