"""The folder of a dataset: whose it is, what is finished in it, and who may write to it.

    with Dataset.open(out, document) as dataset:
        dataset.begin()
        dataset.log("start")
        for shard in dataset.unfinished:
            write_shard(dataset.folder, shard, ...)
        totals = dataset.finish()

`dataset.json` says what the dataset is. It is written once, and a run that would make anything else is
refused, so all that a folder ever holds is parts of one dataset. `_SUCCESS` is written when it is whole.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from d2r_fast.engine.card import render_card
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import disk_errors, make_folder, remove_stale, write_atomic
from d2r_fast.engine.folder_lock import refuse_foreign, sign_lock, take_lock
from d2r_fast.engine.marker import (
    CARD,
    COUNTS,
    DOCUMENT,
    EVENTS,
    SUCCESS,
    document_digest,
    dump,
    dump_line,
    read_document,
    read_marker,
)

_SHOWN = 8
"""Differences to name when a document does not match; more would not help."""


@dataclass(slots=True)
class Dataset:
    """A dataset's folder, held by this process until closed.

    `finished` are the numbers of the shards found finished when it was opened.
    """

    folder: Path
    document: dict[str, Any]
    finished: frozenset[int]
    _lock: int = field(repr=False)

    @classmethod
    def open(cls, out: str | os.PathLike[str], document: Mapping[str, Any]) -> "Dataset":
        """Take the folder `out` for the dataset that `document` describes; make it if need be.

        `document` is what JSON can hold, with "plan" and "format" in it. Nothing in the folder is touched
        before it is known to be this dataset's and no other process's, and a new folder bears no document
        before `begin`: a run that fails to load its models leaves nothing that would bind the next try.

        Raises:
            UserError: `out` is a file, may not be written to, holds something else, or holds a dataset of
                another document (the line names the differences).
            RunError: another process has it, or the disk is full.
        """
        folder = Path(out)
        wanted: dict[str, Any] = json.loads(dump(document))
        make_folder(folder)
        refuse_foreign(folder, own=[DOCUMENT], what="dataset")
        _refuse_other(folder, wanted)
        # A document that the card cannot show must not come to light at the end of days of work.
        render_card(wanted, dict.fromkeys(COUNTS, 0))
        lock = take_lock(folder)
        try:
            sign_lock(lock, folder)
            _refuse_other(folder, wanted)
            remove_stale(folder)
            finished = frozenset(shard for shard, _ in _finished(folder, wanted))
            if len(finished) < wanted["plan"]["num_shards"]:
                (folder / SUCCESS).unlink(missing_ok=True)
            _mend_events(folder / EVENTS)
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, wanted, finished, lock)

    @property
    def num_shards(self) -> int:
        return int(self.document["plan"]["num_shards"])

    @property
    def unfinished(self) -> list[int]:
        """Shards to write, in order."""
        return [shard for shard in range(self.num_shards) if shard not in self.finished]

    def begin(self) -> None:
        """Write dataset.json, if it is not there: from now on the folder is this dataset's."""
        if not (self.folder / DOCUMENT).exists():
            write_atomic(self.folder / DOCUMENT, dump(self.document))

    def log(self, event: str, **details: Any) -> None:
        """Append a line to events.jsonl: `event`, `time` (Unix, seconds) and `details`."""
        line = dump_line({"event": event, "time": round(time.time(), 3), **details})
        path = self.folder / EVENTS
        with disk_errors(path, needed_bytes=len(line)), path.open("ab", buffering=0) as file:
            file.write(line)

    def finish(self) -> dict[str, int]:
        """Write README.md and, last, _SUCCESS; return how many images are wanted, written, rejected, failed.

        Doing it again changes nothing, and a card that somebody edited stays as it is.

        Raises:
            RunError: a shard is not finished after all, or the disk is full.
        """
        finished, totals = set(), dict.fromkeys(COUNTS, 0)
        for shard, marker in _finished(self.folder, self.document):
            finished.add(shard)
            totals = {name: totals[name] + marker[name] for name in COUNTS}
        missing = [shard for shard in range(self.num_shards) if shard not in finished]
        if missing:
            raise RunError(
                f"{self.folder} lacks {len(missing)} of {self.num_shards} shards (first: {missing[0]:05d}): "
                "run the same command again"
            )
        if not (self.folder / CARD).exists():
            write_atomic(self.folder / CARD, render_card(self.document, totals).encode())
        if not (self.folder / SUCCESS).exists():
            write_atomic(self.folder / SUCCESS, b"")
        return totals

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Events of the dataset in `folder`, oldest first. A line that a kill cut short is passed over."""
    path = folder / EVENTS
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            yield event


def differences(found: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Where two documents differ: dotted keys with both values, in the order of the first."""
    flat_found, flat_given = _flat(found), _flat(given)
    keys = [key for key in {**flat_found, **flat_given} if not _same(flat_found, flat_given, key)]
    return [f"{key} is {_show(flat_found, key)}, given {_show(flat_given, key)}" for key in keys]


def name_differences(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The first differences in a line; empty where there is none."""
    differing = differences(found, given)
    more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    return "; ".join(differing[:_SHOWN]) + more


def _same(found: Mapping[str, Any], given: Mapping[str, Any], key: str) -> bool:
    # By their JSON, which tells 1 from True and 1.0.
    return key in found and key in given and json.dumps(found[key]) == json.dumps(given[key])


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
    if key not in flat:
        return "absent"
    text = json.dumps(flat[key], ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse_other(folder: Path, wanted: Mapping[str, Any]) -> None:
    if not (folder / DOCUMENT).exists():
        return
    differing = name_differences(read_document(folder), wanted)
    if differing:
        raise UserError(
            f"out {folder} holds another dataset: {differing}. Give what it was made with, or an empty folder"
        )


def _finished(folder: Path, document: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Finished shards with their markers. Whatever is wrong with the others, they are made again."""
    digest = document_digest(document)
    for shard in range(document["plan"]["num_shards"]):
        try:
            yield shard, read_marker(folder, shard, format=document["format"], dataset=digest)
        except ValueError:
            continue


def _mend_events(path: Path) -> None:
    """Cut off the line that a kill left half written, so that the next starts on a line of its own."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
