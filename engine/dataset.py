"""The folder of a dataset: whose it is, what is finished in it, and who may write to it.

    with Dataset.open(out, document) as dataset:
        dataset.begin()
        dataset.log("start")
        for shard in dataset.unfinished:
            write_shard(dataset.folder, shard, ...)
        totals = dataset.finish()

`dataset.json` says what the dataset is. It is written once, and a run that would make anything else is
refused, so all that a folder ever holds is parts of one dataset. `_SUCCESS` is written when it is whole, by whoever
finishes the last shard: several processes may each have a range of them.

A dataset behind fsspec is made by way of a stage (`out.Out`): the folder and its lock are on this machine's disk, and
what is finished is told from the remote markers. Other machines are not locked out: who makes the same shards there
sends the same bytes.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from d2r_fast.engine.card import render_card
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import disk_errors, make_folder, remove_stale, write_atomic
from d2r_fast.engine.folder_lock import alone, refuse_foreign, sign_lock, take_lock
from d2r_fast.engine.marker import (
    CARD,
    COUNTS,
    DOCUMENT,
    EVENTS,
    SUCCESS,
    WORKERS,
    document_digest,
    dump,
    dump_line,
    events_name,
    is_events,
    read_document,
    read_marker,
)
from d2r_fast.engine.out import Out
from d2r_fast.engine.remote import Remote
from d2r_fast.engine.remote_dataset import (
    claim,
    close_up,
    finished_shards,
    forget_workers,
    read_remote_document,
)

_TEMPORARY = re.compile(r"^\.(\d{5,})[._]")
"""What a shard's file is called while it is written."""
_SHOWN = 8
"""Differences to name when a document does not match; more would not help."""


@dataclass(slots=True)
class Dataset:
    """A dataset's folder, or a range of its shards, held by this process until closed.

    `shards` are those that this process is to make, None for all; `finished` the numbers of those among them that were
    found finished when it was opened. `remote` is where they go from the folder, if anywhere. `lock` is the descriptor
    that holds them.
    """

    folder: Path
    document: dict[str, Any]
    finished: frozenset[int]
    shards: range | None
    lock: int = field(repr=False)
    remote: Remote | None = None

    @classmethod
    def open(
        cls, out: str | os.PathLike[str] | Out, document: Mapping[str, Any], *, shards: range | None = None
    ) -> "Dataset":
        """Take the folder `out` for the dataset that `document` describes; make it if need be.

        `document` is what JSON can hold, with "plan" and "format" in it. With `shards` other processes may take the
        others. Nothing in the folder is touched before it is known to be this dataset's and no other process's, and a
        new folder bears no document before `begin`: a run that fails to load its models leaves nothing that would bind
        the next try.

        Raises:
            UserError: `out` is a file, may not be written to, holds something else, or holds a dataset of
                another document (the line names the differences).
            RunError: another process has it, or the disk is full.
        """
        folder, remote = (out.folder, out.remote) if isinstance(out, Out) else (Path(out), None)
        wanted: dict[str, Any] = json.loads(dump(document))
        make_folder(folder)
        refuse_foreign(folder, own=[DOCUMENT], what="dataset")
        _refuse_other(folder, wanted, remote)
        # A document that the card cannot show must not come to light at the end of days of work.
        render_card(wanted, dict.fromkeys(COUNTS, 0))
        lock = take_lock(folder, shards)
        try:
            sign_lock(lock, folder, shards)
            _refuse_other(folder, wanted, None)
            _remove_stale(folder, lock, shards)
            own = shards or range(wanted["plan"]["num_shards"])
            finished = frozenset(shard for shard, _ in _finished(folder, wanted, own, remote))
            if len(finished) < len(own):
                (folder / SUCCESS).unlink(missing_ok=True)
                if remote is not None:
                    remote.remove(SUCCESS)
            _mend_events(folder / events_name(shards))
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, wanted, finished, shards, lock, remote)

    @property
    def num_shards(self) -> int:
        return int(self.document["plan"]["num_shards"])

    @property
    def unfinished(self) -> list[int]:
        """Shards to write, in order."""
        return [shard for shard in self.shards or range(self.num_shards) if shard not in self.finished]

    @property
    def complete(self) -> bool:
        """Whether the dataset is whole, with its card."""
        if self.remote is not None:
            return self.remote.read(SUCCESS) is not None
        return (self.folder / SUCCESS).exists()

    @property
    def out(self) -> Out:
        """Where its shards go."""
        return Out(self.folder, self.remote)

    @property
    def name(self) -> str:
        """What people know it by."""
        return str(self.out)

    def begin(self) -> None:
        """Write dataset.json, if it is not there: from now on the folder is this dataset's."""
        with alone(self.lock):
            for path in sorted((self.folder / WORKERS).glob("*.json")):
                with suppress(FileNotFoundError):  # a worker of another range may just be ending
                    if self._is_ours(path.read_bytes()):
                        path.unlink()
            if not (self.folder / DOCUMENT).exists():
                write_atomic(self.folder / DOCUMENT, dump(self.document))
            if self.remote is not None:
                claim(self.remote, dump(self.document))
                forget_workers(self.remote, self._is_ours)
                if not (self.folder / events_name(self.shards)).exists():
                    self.remote.get(self.folder, [events_name(self.shards)])  # this run's lines come after

    def _is_ours(self, note: bytes) -> bool:
        """Whether an earlier run's worker said this of shards that this process has now: then it is gone."""
        try:
            span = json.loads(note)["shards"]
            theirs = None if span is None else range(int(span[0]), int(span[1]))
        except (ValueError, TypeError, LookupError):
            theirs = None
        mine = self.shards
        return mine is None or theirs is None or (mine.start < theirs.stop and theirs.start < mine.stop)

    def log(self, event: str, **details: Any) -> None:
        """Append a line to this run's log: `event`, `time` (Unix, seconds) and `details`."""
        line = dump_line({"event": event, "time": round(time.time(), 3), **details})
        path = self.folder / events_name(self.shards)
        with disk_errors(path, needed_bytes=len(line)), path.open("ab", buffering=0) as file:
            file.write(line)

    def finish(self) -> dict[str, int]:
        """Write README.md and, last, _SUCCESS, if all shards are there; how many images are wanted, written, rejected
        and failed: in all of them, or in this process's where others are not done yet.

        Doing it again changes nothing, and a card that somebody edited stays as it is.

        Raises:
            RunError: a shard of this process is not finished after all, or the disk is full.
        """
        _remove_stale(self.folder, self.lock, self.shards)  # a worker may have died
        counts = {
            shard: {name: marker[name] for name in COUNTS}
            for shard, marker in _finished(self.folder, self.document, range(self.num_shards), self.remote)
        }
        own = self.shards or range(self.num_shards)
        missing = [shard for shard in own if shard not in counts]
        if missing:
            raise RunError(
                f"{self.name} lacks {len(missing)} of {len(own)} shards (first: {missing[0]:05d}): "
                "run the same command again"
            )
        if self.remote is not None and (self.folder / events_name(self.shards)).exists():
            self.remote.put(self.folder, [events_name(self.shards)])
        if len(counts) < self.num_shards:
            return _sum(counts[shard] for shard in own)
        totals = _sum(counts.values())
        with alone(self.lock):
            self._close_up(totals)
            if self.remote is not None:
                close_up(self.remote, self.folder)
        return totals

    def _close_up(self, totals: dict[str, int]) -> None:
        shutil.rmtree(self.folder / WORKERS, ignore_errors=True)  # loaders would take it for an identity
        if not (self.folder / CARD).exists():
            write_atomic(self.folder / CARD, render_card(self.document, totals).encode())
        if not (self.folder / SUCCESS).exists():
            write_atomic(self.folder / SUCCESS, b"")

    def close(self) -> None:
        """Let go of the folder."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_events(folder: Path, name: str = EVENTS) -> Iterator[dict[str, Any]]:
    """Events of a log of the dataset in `folder`, oldest first. A line that a kill cut short is passed over."""
    path = folder / name
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            yield event


def logs(folder: Path) -> list[str]:
    """Names of the logs of the dataset in `folder`: of whole runs, and of those that made ranges of shards."""
    return sorted(path.name for path in folder.iterdir() if is_events(path.name))


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


def check_same(document: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """See that this machine would make the dataset that it is asked for.

    Raises:
        UserError: it would make another.
    """
    differing = name_differences(document, json.loads(dump(found)))
    if differing:
        raise UserError(
            f"{os.uname().nodename} would make another dataset: {differing}. Give it the same files and versions"
        )


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


def _refuse_other(folder: Path, wanted: Mapping[str, Any], remote: Remote | None) -> None:
    here = read_document(folder) if (folder / DOCUMENT).exists() else None
    there = None if remote is None else read_remote_document(remote)
    for place, found in ((folder, here), (remote, there)):
        differing = "" if found is None else name_differences(found, wanted)
        if differing:
            raise UserError(
                f"out {place} holds another dataset: {differing}. Give what it was made with, or an empty folder"
            )


def _finished(
    folder: Path, document: Mapping[str, Any], shards: range, remote: Remote | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Those of the shards that are finished, with their markers. Whatever is wrong with the others, they are made
    again."""
    if remote is not None:
        yield from finished_shards(remote, document, shards).items()
        return
    digest = document_digest(document)
    for shard in shards:
        try:
            yield shard, read_marker(folder, shard, format=document["format"], dataset=digest)
        except ValueError:
            continue


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    totals = dict.fromkeys(COUNTS, 0)
    for one in counts:
        totals = {name: totals[name] + one[name] for name in COUNTS}
    return totals


def _remove_stale(folder: Path, lock: int, shards: range | None) -> None:
    """Delete what killed processes left of these shards, and of the files that all share."""

    def is_ours(name: str) -> bool:
        number = _TEMPORARY.match(name)
        return shards is None or number is None or int(number[1]) in shards

    with alone(lock):
        remove_stale(folder, which=is_ours)


def _mend_events(path: Path) -> None:
    """Cut off the line that a kill left half written, so that the next starts on a line of its own."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
