"""`d2r-fast drill`: faults caused on purpose, and what came of them.

    d2r-fast drill --quick                       # a minute: does it run at all
    d2r-fast drill --save bench/results          # the numbers that were asked for
    python -m d2r_fast.bench.drill.table README.md bench/results

Every drill runs the commands as people do, on a small translation method of random weights; what it kills, starves and
damages is real. A table goes to standard output, its last line is the document that `--save` writes, and the status is
1 where something was not met.
"""

import datetime
import json
import os
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2r_fast.bench.drill.config import DRILLS, DrillConfig, DrillName
from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import write_atomic

if TYPE_CHECKING:
    from d2r_fast.bench.drill.yard import Yard

SCHEMA = 1
KIND = "drill"
SOAK_S = 600.0
Json = dict[str, Any]


def run_drill(config: DrillConfig) -> int:
    """Runs drills, prints what they found, saves it.

    Returns:
        0, or 1 where one was not met.

    Raises:
        UserError: a folder cannot be used.
    """
    for option, given in (("folder", config.folder), ("save", config.save)):
        if given is not None and not given.is_dir():
            raise UserError(f"{option} {given} is not a folder: make it, or give one that exists")
    _make_room()
    drills: dict[str, Json] = {}
    with tempfile.TemporaryDirectory(prefix="d2r-fast-drill-", dir=config.folder) as folder:
        from d2r_fast.bench.drill.yard import Yard

        soak_s = config.soak_s if config.soak_s is not None else 0.0 if config.quick else SOAK_S
        yard = Yard.open(Path(folder).resolve(), quick=config.quick, seed=config.seed, soak_s=soak_s)
        for name in config.only or tuple(DRILLS):
            say(f"drill: {name}")
            begun_s = time.monotonic()
            outcomes = _run(name, yard.part(name))
            drills[name] = _section(outcomes, time.monotonic() - begun_s, folder=yard.folder)
            for outcome in outcomes:
                say(f"drill: {name}: {outcome.verdict}: {outcome.found}")
    document = _describe(config, drills)
    print("\n".join(lines(document)))
    if config.save is not None:
        _save(document, config.save)
    print(json.dumps(document, allow_nan=False))
    return 1 if any(row["met"] is False for row in rows(document)) else 0


def _run(name: DrillName, yard: "Yard") -> list[Outcome]:
    """One drill's outcomes; one that breaks off is not met, and the others go on."""
    try:
        found: list[Outcome] = import_module(f"d2r_fast.bench.drill.{DRILLS[name]}").drill(yard)
    except Exception as error:
        say(traceback.format_exc())
        return [Outcome(name, "the drill runs to its end", f"{type(error).__name__}: {error}", False)]
    return found


def _make_room() -> None:
    """Settings of this process that its children are to have: one thread, and no part of a SLURM array."""
    for name in [name for name in os.environ if name.startswith("SLURM_ARRAY_")]:
        del os.environ[name]
    os.environ["OMP_NUM_THREADS"] = "1"


def _section(outcomes: list[Outcome], seconds: float, *, folder: Path) -> Json:
    return {"seconds": round(seconds, 1), "outcomes": [_shown(outcome, folder) for outcome in outcomes]}


def _shown(outcome: Outcome, folder: Path) -> Json:
    """With files named as they lie in the folder, which is gone when anybody reads this."""
    texts = outcome.as_json()
    return {
        name: text.replace(f"{folder}/", "") if isinstance(text, str) else text
        for name, text in texts.items()
    }


def _describe(config: DrillConfig, drills: dict[str, Json]) -> Json:
    from d2r_fast.bench.machine import describe_machine, describe_versions, revision

    return {
        "schema": SCHEMA, "kind": KIND, "date": datetime.date.today().isoformat(), "quick": config.quick,
        "seed": config.seed, "machine": describe_machine("cpu"), "versions": describe_versions(),
        "revision": revision(), "drills": drills,
    }  # fmt: skip


def rows(document: Json) -> list[Json]:
    """All outcomes, in order."""
    return [outcome for section in document["drills"].values() for outcome in section["outcomes"]]


def lines(document: Json) -> list[str]:
    """The table for a terminal: a fault a paragraph."""
    found = []
    for name, section in document["drills"].items():
        found.append(f"{name} ({section['seconds']:g} s)")
        for outcome in section["outcomes"]:
            row = Outcome(**outcome)
            found += [
                f"  {row.verdict:8} {row.fault}",
                f"           wanted: {row.wanted}",
                f"           found:  {row.found}",
            ]
            found += [f"           {row.note}"] if row.note else []
    return found


def _save(document: Json, folder: Path) -> None:
    """Puts the document beside those of other days; drills that were not run now stay from earlier today."""
    from d2r_fast.bench.record import slug

    path = folder / f"{slug(document['machine'])}-drill-{document['date']}.json"
    if path.exists():
        earlier = read_drills(path)
        if earlier["quick"] == document["quick"]:
            names: list[DrillName] = list(DRILLS)
            both = earlier["drills"] | document["drills"]
            document = document | {"drills": {name: both[name] for name in names if name in both}}
    write_atomic(path, (json.dumps(document, allow_nan=False, indent=1) + "\n").encode())


def read_drills(path: Path) -> Json:
    """A saved document.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    from d2r_fast.bench.record import read_saved

    return read_saved(path, "drill document", schema=SCHEMA, kind=KIND)
