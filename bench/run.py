"""`d2r-fast bench`: ceilings first, then measurements in turn, then one line of JSON.

    d2r-fast bench networks --size mini --budget-s 60
    d2r-fast bench all --size full --save bench/results          # everything, in 20 minutes, from nothing

Progress goes to standard error, tables to standard output, and its last line is the document that `--save`
writes. A section that comes when the time is up is skipped and says so; one that fails is recorded, the others
go on, and the exit status is 1.
"""

import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from d2r_fast.bench.ceiling import measure_rates
from d2r_fast.bench.config import BenchConfig, Section
from d2r_fast.bench.context import Bench
from d2r_fast.bench.lines import ceiling_lines, section_lines
from d2r_fast.bench.machine import CardLog, describe_machine, describe_versions, revision
from d2r_fast.bench.measure import Budget, NoTime
from d2r_fast.bench.plots import draw_plots
from d2r_fast.bench.record import Found, Record
from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.models.init import init_models

WEIGHTS: dict[str, int] = {
    "networks": 8, "detector": 1, "paths": 5, "scheduler": 3, "pipeline": 5, "kernels": 2,
    "recognition": 2, "readers": 1, "workers": 3, "translation": 10,
}  # fmt: skip
"""Shares of the time that sections get of what is left when they begin."""


def run_bench(names: Sequence[Section], config: BenchConfig) -> int:
    """Runs sections, prints what they found, saves it.

    Returns:
        0, or 1 if a section failed.

    Raises:
        UserError: a setting cannot be used here.
        RunError: the disk is full.
    """
    budget = Budget(config.budget_s)
    device = find_device(config.device)
    machine = describe_machine(device)
    with tempfile.TemporaryDirectory(prefix="d2r-fast-bench-") as folder:
        workspace = Path(folder)
        models = config.models or make_models(workspace / "models", config.size)
        sections: dict[str, dict[str, Any]] = {}
        bench = Bench(config, device, models, workspace, measure_rates(device), budget, sections)
        record = Record.open(machine, size=bench.size, folder=config.save)
        print("\n".join(ceiling_lines(bench)), flush=True)
        for place, name in enumerate(names):
            left = sum(WEIGHTS[later] for later in names[place:])
            bench.budget = Budget(budget.share(left / WEIGHTS[name]))
            section = sections[name] = run_section(name, bench)
            print("\n".join(section_lines(name, section)), flush=True)
            record.put(name, section)
            if record.path is not None:
                draw_plots(record.as_json(), record.path.with_suffix(".png"))
    print(record.line())
    return 1 if "failed" in [section["status"] for section in sections.values()] else 0


def make_models(folder: Path, size: Any) -> Path:
    """Random weights, in the layout of the released ones."""
    say(f"bench: writing random {size} networks")
    init_models(folder, size=size, seed=0)
    return folder


def run_section(name: Section, bench: Bench) -> dict[str, Any]:
    """One section of the document: measured, skipped or failed."""
    if bench.budget.left_s <= 0:
        return {"status": "skipped", "reason": "the time was up"}
    say(f"bench: {name}, at most {bench.budget.left_s:.0f} s")
    found, begun_s = Found(), time.monotonic()
    status: dict[str, Any] = {"status": "done"}
    with CardLog(bench.device) as card:
        try:
            import_module(f"d2r_fast.bench.{name}_section").measure(bench, found)
        except NoTime as error:
            status = {"status": "skipped", "reason": str(error)}
        except (UserError, RunError) as error:
            status = {"status": "failed", "reason": str(error)}
        except Exception:  # what one section breaks on must not cost the time that the others have measured
            status = {"status": "failed", "reason": traceback.format_exc()}
            say(status["reason"])
    return status | {
        "seconds": round(time.monotonic() - begun_s, 1),
        "settings": named_settings(bench.config) | {"height": bench.sides[0], "width": bench.sides[1]},
        "versions": describe_versions(),
        "revision": revision(),
        "ceilings": bench.rates.as_json() | {"work": {n: w.as_json() for n, w in bench.work.items()}},
        "card": card.summary,
        "rows": found.rows,
        "findings": found.findings,
    }


def named_settings(config: BenchConfig) -> dict[str, Any]:
    """The settings for a document that is published: of folders the names, and not where they lie."""
    folders = {name: value.name for name, value in config if isinstance(value, Path)}
    return config.model_dump(mode="json") | folders
