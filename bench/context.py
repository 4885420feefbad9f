"""What every section of a benchmark works with: device, models, rates, time, and what has been found so far."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from d2r_fast.bench.ceiling import DTYPES, Rates, Work, model_work
from d2r_fast.bench.config import BenchConfig
from d2r_fast.bench.measure import Budget
from d2r_fast.engine.backend import Networks, open_networks
from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.config import Backend, Precision
from d2r_fast.engine.console import say
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.models.layout import UNET, VAE
from d2r_fast.engine.models.load import config_file, read_config

BACKENDS: tuple[Backend, ...] = (
    "openvino", "torch", "tensorrt", "inductor", "onnxruntime", "tensorrt-rtx", "onnxruntime-tensorrt",
)  # fmt: skip
"""In the order in which they are measured: what is left out when the time is up matters least. On a card torch
comes first, which compiles nothing."""
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
        if self.config.batch_size or not self.on_cpu:
            return self.config.batch_size or (16, 32, 8, 48)
        return (2,) if self.size == "full" else (2, 4, 8)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """In which networks are measured: on a card in half precision, as Arc2Face publishes them."""
        if self.config.precision or not self.on_cpu:
            return self.config.precision or ("fp16",)
        names: tuple[Precision, ...] = get_args(Precision)
        return tuple(name for name in names if name in self.rates.flops_per_s)

    @cached_property
    def backends(self) -> tuple[Backend, ...]:
        """Those asked for, or all that can run and build here; why others cannot is said."""
        if self.config.backend:
            return self.config.backend
        runnable = []
        for name in BACKENDS:
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
        """Backend and precision that ran the UNet fastest; before that is measured, the first of each."""
        best = self._fastest_unet()
        return (best["backend"], best["precision"]) if best else (self.backends[0], self.precisions[0])

    @property
    def fastest_batch(self) -> int:
        """Rows at which the UNet ran fastest; before that is measured, the first number of them."""
        best = self._fastest_unet()
        return best["batch_size"] if best else self.batch_sizes[0]

    def _fastest_unet(self) -> dict[str, Any] | None:
        rows = self.sections.get("networks", {}).get("rows", [])
        return max(
            (row for row in rows if row.get("network") == "unet"), key=lambda row: row["per_s"], default=None
        )

    def open(
        self, backend: Backend, precision: Precision, *, batch_size: int, sides: tuple[int, int]
    ) -> tuple[Networks, Arc2FaceGenerator]:
        """The networks that paths and scheduler are measured with, and the generator over them."""
        height, width = sides
        networks = open_networks(
            backend, self.models, engines=self.engines, device=self.device, dtype=DTYPES[precision],
            batch_size=batch_size, lora=False, height=height, width=width,
        )  # fmt: skip
        return networks, Arc2FaceGenerator(networks, device=self.device, batch_size=batch_size)
