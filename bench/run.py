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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from d2r_fast.bench.ceiling import DTYPES, Rates, Work, measure_rates, model_work
from d2r_fast.bench.config import BenchConfig, Section
from d2r_fast.bench.machine import CardLog, describe_machine, describe_versions, revision
from d2r_fast.bench.measure import Budget
from d2r_fast.bench.plots import draw_plots
from d2r_fast.bench.record import Found, Record
from d2r_fast.engine.backend import Networks, open_networks
from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.condition import NUM_TOKENS
from d2r_fast.engine.config import Backend, Precision
from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.models.init import init_models
from d2r_fast.engine.models.layout import UNET, VAE
from d2r_fast.engine.models.load import config_file, read_config

WEIGHTS: dict[str, int] = {
    "networks": 8, "detector": 1, "paths": 5, "scheduler": 3, "pipeline": 5, "kernels": 2,
}  # fmt: skip
"""Shares of the time that sections get of what is left when they begin."""
LIKELY: tuple[Backend, ...] = (
    "tensorrt", "tensorrt-rtx", "inductor", "openvino", "onnxruntime", "torch",
)  # fmt: skip
"""All backends, from the likely fastest down: what is left out when the time is up matters least."""
CPU_SIDE = 256
"""Image side in pixels at which full shapes are measured on a CPU."""


@dataclass
class Bench:
    """What every section works with.

    Attributes:
        config: as it was given.
        device: "cpu" or "cuda:N".
        models: model folder.
        workspace: folder for files that nobody keeps.
        rates: what this machine was measured to do.
        budget: time of the section that is running.
        sections: what has been measured.
    """

    config: BenchConfig
    device: str
    models: Path
    workspace: Path
    rates: Rates
    budget: Budget
    sections: dict[str, dict[str, Any]]

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def kind(self) -> tuple[str, str]:
        """What targets depend on: cpu or cuda, and the size of the networks."""
        return self.device.partition(":")[0], self.size

    @cached_property
    def size(self) -> str:
        """full for the released shapes, else mini."""
        wide = read_config(config_file(self.models, UNET))["cross_attention_dim"] >= 768
        return "full" if wide else "mini"

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        if self.config.height is not None and self.config.width is not None:
            return self.config.height, self.config.width
        if self.on_cpu and self.size == "full":
            return CPU_SIDE, CPU_SIDE
        side = read_config(config_file(self.models, UNET))["sample_size"] * self.pixels_per_latent
        return side, side

    @cached_property
    def pixels_per_latent(self) -> int:
        return int(2 ** (len(read_config(config_file(self.models, VAE))["block_out_channels"]) - 1))

    @cached_property
    def work(self) -> dict[str, Work]:
        """Of the diffusion networks, per row at this size."""
        return model_work(self.models, *self.sides)

    @cached_property
    def engines(self) -> Path:
        folder = self.config.engines or self.workspace / "engines"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return self.config.batch_size or ((2,) if self.on_cpu else (8, 16, 32, 48))

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """In which networks are measured; float32 on a card is of no use to anybody."""
        found = [name for name in get_args(Precision) if name in self.rates.flops_per_s]
        return self.config.precision or tuple(name for name in found if self.on_cpu or name != "fp32")

    @cached_property
    def backends(self) -> tuple[Backend, ...]:
        """Those asked for, or all that can run and build here; why others cannot is said."""
        if self.config.backend:
            return self.config.backend
        runnable = []
        for name in LIKELY:
            reason = find_backend(name).why_not(self.device)
            if name == "inductor" and self.on_cpu:
                reason = "on a CPU it compiles for minutes: ask for it by --backend inductor"
            if reason is None:
                runnable.append(name)
            else:
                say(f"bench: backend {name} is left out: {reason}")
        return tuple(runnable)

    @property
    def best_unet(self) -> tuple[Backend, Precision]:
        """Backend and precision that ran the UNet fastest; before that is measured, the likeliest."""
        best = self._fastest_unet()
        if best:
            return best["backend"], best["precision"]
        likely = [name for name in LIKELY if name in self.backends]
        return likely[0], self.precisions[-1]

    @property
    def fastest_batch(self) -> int:
        """Rows at which the UNet ran fastest; before that is measured, the smallest."""
        best = self._fastest_unet()
        return best["batch_size"] if best else self.batch_sizes[0]

    def _fastest_unet(self) -> dict[str, Any] | None:
        rows = self.sections.get("networks", {}).get("rows", [])
        return max(
            (row for row in rows if row.get("network") == "unet"), key=lambda row: row["per_s"], default=None
        )

    def open(
        self, backend: Backend, precision: Precision, *, batch_size: int
    ) -> tuple[Networks, Arc2FaceGenerator]:
        """The networks that paths and scheduler are measured with, and the generator over them."""
        height, width = self.sides
        networks = open_networks(
            backend, self.models, engines=self.engines, device=self.device, dtype=DTYPES[precision],
            batch_size=batch_size, lora=False, height=height, width=width,
        )  # fmt: skip
        return networks, Arc2FaceGenerator(networks, device=self.device, batch_size=batch_size)


Measure = Callable[[Bench, Found], None]


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
    measure: Measure = import_module(f"d2r_fast.bench.{name}_section").measure
    say(f"bench: {name}, at most {bench.budget.left_s:.0f} s")
    found, begun_s = Found(), time.monotonic()
    status: dict[str, Any] = {"status": "done"}
    with CardLog(bench.device) as card:
        try:
            measure(bench, found)
        except (UserError, RunError) as error:
            status = {"status": "failed", "reason": str(error)}
        except Exception:  # what one section breaks on must not cost the time that the others have measured
            status = {"status": "failed", "reason": traceback.format_exc()}
            say(status["reason"])
    return status | {
        "seconds": round(time.monotonic() - begun_s, 1),
        "settings": bench.config.model_dump(mode="json")
        | {"height": bench.sides[0], "width": bench.sides[1]},
        "versions": describe_versions(),
        "revision": revision(),
        "ceilings": bench.rates.as_json() | {"work": {n: w.as_json() for n, w in bench.work.items()}},
        "card": card.summary,
        "rows": found.rows,
        "findings": found.findings,
    }


def ceiling_lines(bench: Bench) -> list[str]:
    """What this machine could do at best, before anything is measured."""
    height, width = bench.sides
    lines = [f"ceilings, measured on {bench.device}:"]
    lines += [
        f"  {name} matrix products {rate / 1e12:.4g} TFLOP/s"
        for name, rate in bench.rates.flops_per_s.items()
    ]
    lines.append(f"  copy {bench.rates.bytes_per_s / 1e9:.4g} GB/s, read and written")
    lines.append(
        f"work of one row at {height} x {width} pixels, {NUM_TOKENS} tokens, and the least time for it:"
    )
    for name, work in bench.work.items():
        floors = (f"{p} {bench.rates.floor_s(work, p, 1)[0] * 1e3:.4g} ms" for p in bench.rates.flops_per_s)
        lines.append(f"  {name}: {work.flops / 1e12:.4g} TFLOP, {', '.join(floors)}")
    return lines


def section_lines(name: str, section: dict[str, Any]) -> list[str]:
    """A section as a table for people."""
    if section["status"] == "skipped":
        return [f"{name}: skipped, {section['reason']}"]
    lines = [f"{name}: {section['status']} in {section['seconds']} s"]
    if section["status"] == "failed":
        lines.append("  " + section["reason"].strip().splitlines()[-1])
    for row in section["rows"]:
        lines.append("  " + row_line(row))
    for finding in section["findings"]:
        lines.append("  " + finding_line(finding))
    return lines


def row_line(row: dict[str, Any]) -> str:
    """A measurement in one line."""
    parts = [row["name"]]
    if "median_s" in row:
        parts.append(
            f"{row['median_s']:.4g} s ({row['p10_s']:.4g} to {row['p90_s']:.4g}), {row['per_s']:.4g}/s"
        )
    if row.get("of_ceiling") is not None:
        parts.append(f"{row['of_ceiling']:.0%} of the ceiling")
    if row.get("rel_l2") is not None:
        parts.append(f"relative L2 error {row['rel_l2']:.1e}")
    if "reason" in row:
        parts.append(row["reason"])
    return ": ".join([parts[0], ", ".join(parts[1:])])


def finding_line(finding: dict[str, Any]) -> str:
    """A finding in one line."""
    spread = f" ({finding['low']:.4g} to {finding['high']:.4g})" if finding["low"] is not None else ""
    verdict = "met" if finding["met"] else "short"
    wanted = "" if finding["target"] is None else f", wanted {finding['target']:g}: {verdict}"
    note = f"; {finding['note']}" if finding["note"] else ""
    return f"{finding['name']} = {finding['value']:.4g}{finding['unit']}{spread}{wanted}{note}"
