"""How fast a machine could be at best: the work in a network, and the rates at which the machine does work.

Work is counted, not estimated: networks run on PyTorch's meta device, which knows shapes alone, under torch's
own FLOP counter (a multiplication and an addition are two operations; the products inside attention count).
Rates are measured: a large matrix product in each arithmetic, and a large copy. The larger of operations over
the one and bytes over the other is the least time that any implementation can take here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from d2r_fast.bench.measure import Timing, interleave
from d2r_fast.engine.condition import NUM_TOKENS
from d2r_fast.engine.models.configs import Recogniser
from d2r_fast.engine.models.layout import ENCODER, UNET, VAE, Part
from d2r_fast.engine.models.load import config_file, read_config
from d2r_fast.engine.models.skeleton import skeleton
from d2r_fast.engine.mtcnn import pyramid
from d2r_fast.engine.mtcnn_networks import load_networks
from d2r_fast.engine.processor import processor
from d2r_fast.engine.quiet import quiet_libraries
from d2r_fast.recognition.iresnet import IMAGE_SIZE, IResNet

MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Work:
    """What a network does for one row.

    Attributes:
        flops: operations in products and convolutions; norms, activations and the rest are not counted.
        weights: numbers that a run reads once, however many rows it has.
        moved: numbers that products and convolutions read and write for one row: what goes through memory
            where all else (norms, activations, sums) is computed in passing.
    """

    flops: float
    weights: int
    moved: int

    def as_json(self) -> dict[str, float]:
        return {"tflop": float(f"{self.flops / 1e12:.6g}"), "weights": self.weights, "moved": self.moved}


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers that products and convolutions read and write, attention being one of them."""

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_moved = 0
        self._weights = {id(weight) for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name.removeprefix("aten::") in _PRODUCTS:
            leaves = tree_leaves((args, kwargs, out))
            # Weights are counted apart: they are read once for a whole batch.
            self.num_moved += sum(
                leaf.numel()
                for leaf in leaves
                if isinstance(leaf, torch.Tensor) and id(leaf) not in self._weights
            )
        return out


_PRODUCTS = {
    "conv2d", "convolution", "linear", "matmul", "mm", "addmm", "bmm", "scaled_dot_product_attention",
}  # fmt: skip


def count(run: Callable[[], object], module: nn.Module) -> Work:
    """The work of one call, which should be of one row, in a module."""
    weights = [*module.parameters(), *module.buffers()]
    traffic, flops = Traffic(weights), FlopCounterMode(display=False)
    # Traffic comes last, so that it sees attention as one operation and the counter below its products.
    with torch.inference_mode(), flops, traffic:
        run()
    return Work(float(flops.get_total_flops()), sum(map(torch.numel, module.parameters())), traffic.num_moved)


def unet_work(config: dict[str, Any], height: int, width: int) -> Work:
    """Of the UNet on latents of height x width."""
    unet = _skeleton(UNET, config)
    inputs = (
        _meta(1, config["in_channels"], height, width),
        torch.zeros(1, dtype=torch.int64, device="meta"),
    )
    context = _meta(1, NUM_TOKENS, config["cross_attention_dim"])
    return count(lambda: unet(*inputs, encoder_hidden_states=context, return_dict=False), unet)


def vae_work(config: dict[str, Any], height: int, width: int) -> Work:
    """Of the VAE's decoder on latents of height x width."""
    vae = _skeleton(VAE, config)
    vae.encoder = vae.quant_conv = None
    latents = _meta(1, config["latent_channels"], height, width)
    return count(lambda: vae.decode(latents, return_dict=False), vae)


def encoder_work(config: dict[str, Any]) -> Work:
    """Of Arc2Face's text encoder on one prompt."""
    model = _skeleton(ENCODER, config)
    hidden = _meta(1, NUM_TOKENS, config["hidden_size"])
    states = [layer for name, layer in model.named_children() if name != "embeddings"]
    mask = _meta(1, 1, NUM_TOKENS, NUM_TOKENS)
    return count(lambda: model.encoder(inputs_embeds=hidden, attention_mask=mask), nn.ModuleList(states))


def recogniser_work(shape: Recogniser) -> Work:
    """Of an IResNet on one crop of 112 x 112."""
    # Its forward asks for autocast, which the meta device does not have.
    with FakeTensorMode():
        network = IResNet(shape.num_blocks, widths=shape.widths, embedding_dim=shape.embedding_dim).eval()
        crops = torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE)
        return count(lambda: network(crops), network)


def proposal_work(height: int, width: int, min_face_size: int) -> Work:
    """Of MTCNN's P-Net over the whole pyramid of one image; what follows depends on what is in the image."""
    pnet = load_networks()[0].to("meta")

    def run() -> None:
        for scale in pyramid(height, width, min_face_size):
            pnet(_meta(1, 3, int(height * scale + 1), int(width * scale + 1)))

    return count(run, pnet)


def model_work(models: Path, height: int, width: int) -> dict[str, Work]:
    """Of the diffusion networks in a model folder, for images of height x width pixels."""
    unet, vae, encoder = (read_config(config_file(models, part)) for part in (UNET, VAE, ENCODER))
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    sides = height // scale, width // scale
    return {"unet": unet_work(unet, *sides), "vae": vae_work(vae, *sides), "encoder": encoder_work(encoder)}


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine was measured to do.

    Attributes:
        flops_per_s: precision -> operations per second in a large matrix product.
        bytes_per_s: read plus written in a large copy.
    """

    flops_per_s: Mapping[str, float]
    bytes_per_s: float

    def floor_s(self, work: Work, precision: str, num_rows: int) -> tuple[float, str]:
        """Least seconds for that many rows in one run, and what sets them: "compute" or "memory"."""
        size = DTYPES[precision].itemsize
        compute_s = work.flops * num_rows / self.flops_per_s[precision]
        memory_s = (work.weights + work.moved * num_rows) * size / self.bytes_per_s
        return (compute_s, "compute") if compute_s >= memory_s else (memory_s, "memory")

    def as_json(self) -> dict[str, Any]:
        return {
            "tflop_per_s": {name: float(f"{rate / 1e12:.5g}") for name, rate in self.flops_per_s.items()},
            "gbyte_per_s": float(f"{self.bytes_per_s / 1e9:.5g}"),
        }


def measure_rates(
    device: str, *, num_rounds: int = 7, side: int | None = None, copy_bytes: int | None = None
) -> Rates:
    """Matrix products in every arithmetic that the device has units for, and a copy.

    On random numbers: products of zeros draw less power and run faster than any real work.
    """
    kind = device.partition(":")[0]
    side, copy_bytes = side or MATMUL_SIDE[kind], copy_bytes or COPY_BYTES[kind]
    arms: dict[str, Callable[[], object]] = {}
    for name in native_precisions(device):
        left, right = (
            torch.randn(side, side, generator=torch.Generator().manual_seed(seed)).to(device, DTYPES[name])
            for seed in (0, 1)
        )
        out = torch.empty_like(left)
        arms[name] = partial(torch.mm, left, right, out=out)
    source = torch.randn(copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    arms["copy"] = lambda: target.copy_(source)
    timings = interleave(arms, num_rounds=num_rounds, window_s=0.05, num_warmup=2, device=device)
    copied = timings.pop("copy")
    flops = {name: 2 * side**3 / _best_s(timing) for name, timing in timings.items()}
    return Rates(flops, 2 * copy_bytes / _best_s(copied))


def native_precisions(device: str) -> tuple[str, ...]:
    """What the device has matrix arithmetic for; other precisions are emulated, and slower than float32."""
    if device.startswith("cuda"):
        return "fp32", "bf16", "fp16"
    instructions = processor()[1]
    half = ("bf16", "fp16")
    return ("fp32", *(name for name in half if any(flag.endswith(name) for flag in instructions)))


def _best_s(timing: Timing) -> float:
    """A ceiling is what the machine can do, so the fastest round counts."""
    return min(timing.times_s)


def _skeleton(part: Part, config: dict[str, Any]) -> Any:
    with quiet_libraries():
        return skeleton(part, config).eval()


def _meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")
