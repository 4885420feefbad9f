"""What a dataset amounts to: counts, distributions and times.

Tables are read piece by piece, so memory does not grow with the dataset. It need not be finished: the shards
that are finished count.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from d2r_fast.engine.dataset import read_events
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.histogram import Histogram
from d2r_fast.engine.marker import ShardFiles, document_digest, read_document, read_marker

MAX_PROTOTYPES = 4000
"""Prototypes compared with each other at most: 8 million pairs."""
MAX_REASONS = 200
"""Different reasons told apart at most; what comes later counts as OTHER_REASONS."""
OTHER_REASONS = "other reasons"
NUM_EXAMPLES, EXAMPLES_PER_KIND = 8, 3
NUM_PAIRS = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Two identities and the cosine of their prototypes; each is a name and a render's file name."""

    cosine: float
    first: tuple[str, str]
    second: tuple[str, str]


@dataclass(slots=True)
class Log:
    """What events.jsonl says of all runs: where the renders were, Unix times and stage times in seconds."""

    source: Path | None = None
    num_runs: int = 0
    started: float | None = None
    ended: float | None = None
    wall_s: float = 0.0
    devices: list[str] = field(default_factory=list)
    stage_s: dict[str, float] = field(default_factory=dict)
    num_images: int = 0


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
        UserError: it is no dataset of d2r-fast.
        RunError: a table of a finished shard is damaged.
    """
    document = read_document(folder)
    summary = Summary(folder, document, finished_shards(folder, document))
    chosen = _spread(int(document["plan"]["num_identities"]), MAX_PROTOTYPES)
    prototypes: list[NDArray[np.float32]] = []
    names: list[tuple[str, str]] = []
    for shard in summary.shards:
        files = ShardFiles.of(shard)
        _count_images(summary, folder / files.rows)
        _count_identities(summary, folder / files.identities, chosen, prototypes, names)
        _count_problems(summary, folder / files.errors)
    _compare(summary, prototypes, names)
    summary.log = read_log(folder)
    return summary


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
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} is damaged ({reason}): see `d2r-fast verify {path.parent}`") from error


def _spread(num: int, at_most: int) -> set[int]:
    """Up to `at_most` numbers below `num`, evenly spread."""
    return {index * num // at_most for index in range(at_most)} if num > at_most else set(range(num))


def _tally(counter: Counter[Any], key: Any, other: Any) -> None:
    counter[key if key in counter or len(counter) < MAX_REASONS else other] += 1


def _numbers(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _count_images(summary: Summary, path: Path) -> None:
    columns = ["status", "reason", "attempts", "t", "cos_prototype", "cos_latent"]
    for batch in read_batches(path, columns):
        status = batch["status"].to_pylist()
        summary.statuses.update(status)
        for state, reason in zip(status, batch["reason"].to_pylist(), strict=True):
            if state != "written":
                _tally(summary.reasons, (state, reason or "no reason given"), (state, OTHER_REASONS))
        written = np.array([state == "written" for state in status], dtype=bool)
        values = {name: _numbers(batch[name])[written] for name in columns[2:]}
        summary.attempts.update(values["attempts"].astype(int).tolist())
        summary.cos_prototype.add(values["cos_prototype"])
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
    columns = ["label", "identity", "sources", "prototype"]
    for batch in read_batches(path, columns):
        rows = zip(*(batch[name].to_pylist() for name in columns if name != "prototype"), strict=True)
        for (label, identity, sources), prototype in zip(rows, batch["prototype"], strict=True):
            summary.num_identities += 1
            if not prototype.is_valid:
                summary.num_unusable_identities += 1
            elif label in chosen:
                prototypes.append(
                    np.asarray(prototype.values.to_numpy(zero_copy_only=False), dtype=np.float32)
                )
                names.append((identity, sources[0] if sources else ""))


def _problem(path: Path, line: str) -> dict[str, str]:
    try:
        problem = json.loads(line)
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): see `d2r-fast verify {path.parent}`") from error
    assert isinstance(problem, dict)
    return problem


def _count_problems(summary: Summary, path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        for line in file:
            problem = _problem(path, line)
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


def read_log(folder: Path) -> Log:
    """All runs together; a run lasts from its start to the last event before the next start."""
    log, begun = Log(), None
    for event in read_events(folder):
        now = float(event["time"])
        if event["event"] == "start":
            log.num_runs += 1
            log.started = now if log.started is None else log.started
            log.source = Path(event["source"])
            if event["device"] not in log.devices:
                log.devices.append(event["device"])
        elif begun is not None:
            log.wall_s += max(0.0, now - begun)
        begun = log.ended = now
        if event["event"] == "shard":
            log.num_images += int(event["images"])
            for stage, seconds in event["stage_s"].items():
                log.stage_s[stage] = log.stage_s.get(stage, 0.0) + float(seconds)
    return log
