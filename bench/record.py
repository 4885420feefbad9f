"""What a benchmark has found so far, as one JSON document that is saved after every section.

    {"schema": 1, "size": ..., "date": ..., "machine": {...},
     "sections": {NAME: {"status": "done", "seconds": ..., "settings": {...}, "versions": {...}, "revision": ...,
                         "ceilings": {...}, "card": ..., "rows": [...], "findings": [...]},
                  NAME: {"status": "skipped", "reason": ...}}}

A row is a measurement; a finding is what the rows come to, beside what was asked for. Numbers are finite
throughout: what does not exist is null.
"""

import datetime
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2r_fast.bench.measure import Ratio
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import disk_errors, write_atomic

SCHEMA = 1
Json = dict[str, Any]


@dataclass
class Found:
    """What one section found.

    Attributes:
        rows: one JSON object per measurement, with at least a name.
        findings: what they come to.
    """

    rows: list[Json] = field(default_factory=list)
    findings: list[Json] = field(default_factory=list)

    def row(self, name: str, **values: Any) -> None:
        """A measurement."""
        self.rows.append({"name": name, **values})

    def ratio(self, name: str, ratio: Ratio, *, target: float | None = None, note: str = "") -> None:
        """How many times faster one thing is than another; `target` is the least that was asked for."""
        self.finding(name, ratio.median, low=ratio.low, high=ratio.high, target=target, unit="x", note=note)

    def finding(
        self, name: str, value: float, *, low: float | None = None, high: float | None = None,
        target: float | None = None, unit: str = "", note: str = "",
    ) -> None:  # fmt: skip
        """A figure; one with a target is met where it is no less."""
        met = None if target is None else value >= target
        rounded = {key: _short(number) for key, number in (("value", value), ("low", low), ("high", high))}
        self.findings.append(
            {"name": name, **rounded, "target": target, "met": met, "unit": unit, "note": note}
        )


def _short(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.5g}")


@dataclass
class Record:
    """The document of a run, saved to `path` if there is one.

    Sections that another run put into the file stay until they are measured again.
    """

    machine: Json
    size: str
    date: str
    path: Path | None = None
    sections: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def open(cls, machine: Json, *, size: str, folder: Path | None) -> "Record":
        """The document of this machine, size and day, which may exist already.

        Raises:
            UserError: no such folder, or a file of that name that is no document.
        """
        date = datetime.date.today().isoformat()
        if folder is None:
            return cls(machine, size, date)
        if not folder.is_dir():
            raise UserError(f"save {folder} is not a folder: make it, or give one that exists")
        path = folder / f"{slug(machine)}-{size}-{date}.json"
        sections = read_record(path)["sections"] if path.exists() else {}
        return cls(machine, size, date, path, sections)

    def as_json(self) -> Json:
        return {
            "schema": SCHEMA, "size": self.size, "date": self.date, "machine": self.machine,
            "sections": self.sections,
        }  # fmt: skip

    def put(self, name: str, section: Json) -> None:
        """Takes a section in, in place of what stood there, and saves.

        Raises:
            RunError: the disk is full.
        """
        if section["status"] == "skipped" and self.sections.get(name, {}).get("status") == "done":
            return
        self.sections[name] = section
        if self.path is not None:
            with disk_errors(self.path):
                write_atomic(self.path, (dump(self.as_json(), indent=1) + "\n").encode())

    def line(self) -> str:
        """The document in one line."""
        return dump(self.as_json())


def dump(document: Json, *, indent: int | None = None) -> str:
    """JSON of a document, which must hold no NaN and no infinity."""
    return json.dumps(document, allow_nan=False, indent=indent)


def read_record(path: Path) -> Json:
    """A saved benchmark document.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    return read_saved(path, "benchmark document", schema=SCHEMA)


def read_saved(path: Path, what: str, *, schema: int, **wanted: str) -> Json:
    """A document of results that says of itself that it is `what`: of this schema, with these values.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it or give another folder") from None
    expected = {"schema": schema, **wanted}
    if not isinstance(document, dict) or any(document.get(name) != value for name, value in expected.items()):
        raise UserError(f"{path} is no {what} of schema {schema}: delete it or give another folder")
    return document


def name_machine(machine: Json) -> str:
    """The card, or the processor and how many of its cores could be used."""
    if machine["gpu"]:
        return str(machine["gpu"]["name"])
    count = machine["num_cores"]
    return f"{machine['cpu']}, {count} {'core' if count == 1 else 'cores'}"


def slug(machine: Json) -> str:
    """The machine's name, as it can stand in a file name."""
    name = re.sub(r"\((r|tm)\)", "", name_machine(machine).lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None
