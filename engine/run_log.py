"""What the logs of a dataset's runs say: where the renders were, when, on what, and where the time went.

A whole run writes events.jsonl, one that makes a range of shards a log of its own; several may run at once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2r_fast.engine.dataset import logs, read_events
from d2r_fast.engine.errors import RunError

_LAST_TIME = 253_402_300_800.0
"""Year 10000 in Unix time, where dates end."""
_MOST_IMAGES = 2**53


@dataclass(slots=True)
class Log:
    """All runs together. Unix times and stage times in seconds; `wall_s` counts once what ran at once."""

    source: Path | None = None
    num_runs: int = 0
    started: float | None = None
    ended: float | None = None
    wall_s: float = 0.0
    devices: list[str] = field(default_factory=list)
    stage_s: dict[str, float] = field(default_factory=dict)
    num_images: int = 0


def read_log(folder: Path) -> Log:
    """All runs of the dataset in `folder`; a run lasts from its start to the last event before the next start.

    Raises:
        RunError: a log is there and cannot be read.
    """
    log, spans = Log(), []
    for name in logs(folder):
        spans += _add(log, _events(folder, name))
    log.wall_s = _covered_s(spans)
    return log


def _add(log: Log, events: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Adds a log's events; when its runs began, and how long each lasted."""
    spans: list[tuple[float, float]] = []
    before: float | None = None
    for event in events:
        now = float(event["time"])
        if event["event"] == "start":
            log.num_runs += 1
            log.started = now if log.started is None else min(log.started, now)
            log.source = Path(event["source"])
            if event["device"] not in log.devices:
                log.devices.append(event["device"])
            spans.append((now, 0.0))
        elif before is not None and spans:
            spans[-1] = (spans[-1][0], spans[-1][1] + max(0.0, now - before))
        before = now
        if event["event"] == "shard":
            log.num_images += event["images"]
            for stage, seconds in event["stage_s"].items():
                log.stage_s[stage] = log.stage_s.get(stage, 0.0) + float(seconds)
    if before is not None:
        log.ended = before if log.ended is None else max(log.ended, before)
    return spans


def _covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds during which there was a run, however many at once."""
    covered_s, reached = 0.0, float("-inf")
    for start, length_s in sorted(spans):
        end = start + length_s
        covered_s += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered_s


def _events(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """A log's events that have all their fields; damaged ones are passed over."""
    try:
        yield from filter(_is_event, read_events(folder, name))
    except OSError as error:
        raise RunError(f"{folder / name} cannot be read ({error.strerror}): move it away") from error


def _is_event(event: Any) -> bool:
    if not isinstance(event, dict) or not is_text(event.get("event")) or not _is_span(event.get("time")):
        return False
    if event["event"] == "start":
        return is_text(event.get("source")) and is_text(event.get("device"))
    return event["event"] != "shard" or _has_times(event)


def _has_times(event: Mapping[str, Any]) -> bool:
    images, stage_s = event.get("images"), event.get("stage_s")
    if type(images) is not int or not 0 <= images < _MOST_IMAGES or not isinstance(stage_s, dict):
        return False
    return all(is_text(stage) and _is_span(seconds) for stage, seconds in stage_s.items())


def _is_span(value: Any) -> bool:
    """Whether it is a number of seconds: a Unix time that is a date, or a duration."""
    return type(value) in (int, float) and 0 <= value < _LAST_TIME  # NaN is not


def is_text(value: Any) -> bool:
    """Whether it is a string that can be written to a page and be a path."""
    return isinstance(value, str) and "\0" not in value and _is_encodable(value)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
