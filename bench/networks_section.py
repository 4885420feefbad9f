"""Every network on every backend, against the float32 module as PyTorch runs it.

Each backend takes turns with that module on the same rows, so a ratio is one of equal work, and beside it stands
how far its outputs are from the module's. A network may spread the rows over its streams; the module has all of
them in one batch, and all threads.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from d2r_fast.bench.ceiling import Work, count
from d2r_fast.bench.context import Bench
from d2r_fast.bench.measure import Ratio, Timing, compare, interleave
from d2r_fast.bench.record import Found
from d2r_fast.bench.targets import target
from d2r_fast.engine.backends.cuda import compute_exactly
from d2r_fast.engine.backends.network import Network, Rows, first_line
from d2r_fast.engine.build_engines import open_engine
from d2r_fast.engine.config import Backend, Precision
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.export.networks import Exportable, open_network

NETWORKS = ("unet", "vae", "encoder", "arcface", "pnet", "rnet", "onet")
NUM_ROUNDS, WINDOW_S = 7, 0.2
DETECTOR_ROWS = 32
"""MTCNN's networks are small: a batch of a few rows would measure the calls alone."""
EAGER, OURS = "torch fp32 eager", "engine"
Tensors = Mapping[str, torch.Tensor]


def measure(bench: Bench, found: Found) -> None:
    """Every network at every batch size on every backend, the UNet first."""
    for place, name in enumerate(NETWORKS):
        share_s = bench.budget.share((len(NETWORKS) - place) / (4 if name == "unet" else 1))
        measure_network(name, bench, found, until_s=bench.budget.spent_s + share_s)
    summarise(bench, found)


def measure_network(name: str, bench: Bench, found: Found, *, until_s: float) -> None:
    """One network: a row for each backend, precision and batch size."""
    height, width = bench.sides
    network = open_network(name, bench.models, height=height, width=width)
    eager = Eager(network, bench)
    batch_sizes = (DETECTOR_ROWS,) if name in ("pnet", "rnet", "onet") else bench.batch_sizes
    for batch_size in batch_sizes:
        for backend in bench.backends:
            for precision in bench.precisions:
                if bench.budget.spent_s >= until_s:
                    found.row(f"{name} {backend} {precision}, {batch_size} rows", reason="the time was up")
                    continue
                measure_backend(eager, backend, precision, batch_size, bench, found)


class Eager:
    """The float32 module on its device, as anyone would run it; on CUDA without TF32, as the reference it is.

    Attributes:
        work: of one row.
    """

    def __init__(self, network: Exportable, bench: Bench) -> None:
        self.network = network
        self._module = network.module
        one = network.random_inputs(1, seed=0)
        self.work = bench.work.get(network.name) or count(lambda: self(one), network.module)
        self._module = network.module.to(bench.device)
        compute_exactly(bench.device)

    @torch.inference_mode()
    def __call__(self, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        out = self._module(*(inputs[port.name] for port in self.network.inputs))
        return out if isinstance(out, tuple) else (out,)


def measure_backend(
    eager: Eager, backend: Backend, precision: Precision, batch_size: int, bench: Bench, found: Found
) -> None:
    """One backend against the module on the same rows."""
    name = eager.network.name
    title = f"{name} {backend} {precision}, {batch_size} rows"
    say(f"bench: {title}")
    height, width = bench.sides
    begun_s = time.monotonic()
    try:
        engine = open_engine(
            name, bench.models, engines=bench.engines, backend=backend, precision=precision, device=bench.device,
            batch_size=batch_size, height=height, width=width,
        )  # fmt: skip
        opened_s = round(time.monotonic() - begun_s, 1)
        measured = measure_engine(eager, engine, batch_size, precision, bench)
    except (UserError, RunError, torch.OutOfMemoryError) as error:
        found.row(title, reason=first_line(error))
        return
    found.row(
        title, network=name, backend=backend, precision=precision, batch_size=batch_size, opened_s=opened_s,
        **measured,
    )  # fmt: skip


def measure_engine(
    eager: Eager, engine: Network, batch_size: int, precision: Precision, bench: Bench
) -> dict[str, Any]:
    """What an engine and the module take in turn, and how far apart they are."""
    rows, ports = Rows(engine), eager.network.outputs
    drawn = eager.network.random_inputs(batch_size, seed=0)
    inputs = {key: value.to(bench.device) for key, value in drawn.items()}
    error_size = relative_error([rows(inputs)[port.name] for port in ports], eager(inputs))
    arms: dict[str, Callable[[], object]] = {EAGER: lambda: eager(inputs), OURS: lambda: rows(inputs)}
    timings = interleave(
        arms, num_rounds=NUM_ROUNDS, window_s=WINDOW_S, most_s=bench.budget.share(4), device=bench.device
    )
    timing, speedup = timings[OURS], compare(timings[EAGER], timings[OURS])
    return {
        **timing.row(batch_size), "eager_s": timings[EAGER].row()["median_s"],
        "speedup": [round(value, 4) for value in (speedup.median, speedup.low, speedup.high)],
        "rel_l2": error_size, **distance(eager.work, precision, batch_size, timing, bench),
    }  # fmt: skip


def relative_error(given: list[torch.Tensor], wanted: tuple[torch.Tensor, ...]) -> float:
    """|given - wanted| / |wanted| over all outputs, in float64."""
    difference = sum(float(((a - b).double() ** 2).sum()) for a, b in zip(given, wanted, strict=True))
    return float(f"{(difference / sum(float((b.double() ** 2).sum()) for b in wanted)) ** 0.5:.3g}")


def distance(
    work: Work, precision: str, batch_size: int, timing: Timing, bench: Bench
) -> dict[str, float | str | None]:
    """Operations per second, and which share of what this machine could do at best that is."""
    rate = work.flops * batch_size / timing.median_s
    if precision not in bench.rates.flops_per_s:
        return {"tflop_per_s": float(f"{rate / 1e12:.4g}"), "of_ceiling": None}
    floor_s, bound = bench.rates.floor_s(work, precision, batch_size)
    return {
        "tflop_per_s": float(f"{rate / 1e12:.4g}"), "of_ceiling": round(floor_s / timing.median_s, 4), "bound": bound,
    }  # fmt: skip


def summarise(bench: Bench, found: Found) -> None:
    """The fastest way to run each network."""
    for name in NETWORKS:
        rows = [row for row in found.rows if row.get("network") == name]
        if not rows:
            continue
        # Over batch sizes by rows per second; the ratio is to the module at the same batch.
        best = max(rows, key=lambda row: row["per_s"])
        ratio = Ratio(*best["speedup"])
        title = f"{name} over {EAGER}"
        note = f"{best['backend']} {best['precision']}, {best['batch_size']} rows, error {best['rel_l2']:.1e}"
        found.ratio(title, ratio, target=target(title, bench.kind), note=note)
        if name == "unet" and "tflop_per_s" in best:
            rate = "unet TFLOP/s"
            found.finding(rate, best["tflop_per_s"], target=target(rate, bench.kind))
        if name == "arcface":
            rate = "arcface crops/s"
            found.finding(rate, best["per_s"], target=target(rate, bench.kind))
