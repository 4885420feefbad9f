"""The Triton kernels against the torch expressions beside them, eager and compiled, and the cuts to choose from.

Every case prints its ceiling first: the bytes that must move, each input read once and each output written
once, over this machine's copy rate. Then its arms run in turn: torch eager, torch compiled, the kernel as its
launcher cuts it and, to tune it, as every candidate here cuts it. The launchers' choices are functions of the
shape, taken from these figures; nothing is tuned while images are made.

On a CPU there is nothing to compare: a dry run times the torch expressions alone, at small shapes, to know that
all this works before a GPU is at hand.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from d2r_fast.bench.ceiling import measure_rates
from d2r_fast.bench.measure import Arm, Budget, Timing, compare, interleave
from d2r_fast.engine.console import say
from d2r_fast.kernels.crop import launch_crop, warp_and_normalise
from d2r_fast.kernels.group_norm import MAX_WHOLE, Tiles, group_norm, power_of_two, run_split, run_whole
from d2r_fast.kernels.noise import fused_normal, normal
from d2r_fast.kernels.sampler_step import launch_step, step_slots

EAGER, COMPILED, KERNEL = "torch eager", "torch compiled", "kernel"
NUM_ROUNDS = 9
WINDOW_S = 0.02
SWEEP_BYTES = 1 << 28
"""A call takes its inputs in turn from sets this large together, five times an H100's L2 cache; from one set it
would be the cache that is measured."""
MAX_SETS = 16
DRY_RUN = "dry run on a CPU: the torch expression at a small shape, no kernel"
UNET_NORMS = [
    (32, 320, 64, 64), (32, 960, 64, 64), (32, 640, 32, 32), (32, 1920, 32, 32), (32, 1280, 16, 16),
    (32, 2560, 16, 16), (32, 1280, 8, 8), (32, 2560, 8, 8),
]  # fmt: skip
"""(rows, channels, height, width) of 16 images with guidance: the least and the most channels of each level."""
VAE_NORMS = [(4, 512, 64, 64), (4, 512, 256, 256), (4, 256, 512, 512), (4, 128, 512, 512)]
NUM_GROUPS = 32

Inputs = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one shape.

    Attributes:
        name: kernel, shape and dtype.
        num_bytes: least that one call moves.
        inputs: (device, seed) -> what the arms are called with.
        plain: the torch expression.
        kernel: as its launcher cuts the work.
        candidates: as it might be cut.
        graphed: whether calls are replayed from a CUDA graph, as the UNet's are; the others copy something to
            the device, and are launched from Python one by one, as the scheduler does.
    """

    name: str
    num_bytes: int
    inputs: Callable[[str, int], Inputs]
    plain: Callable[..., object]
    kernel: Callable[..., object]
    candidates: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    graphed: bool = True


def run_kernels(
    device: str, budget_s: float, *, bytes_per_s: float | None = None, tune: bool = False
) -> list[dict[str, Any]]:
    """Times every case that the budget allows, and prints it as it goes.

    Args:
        device: "cpu" for the dry run, or "cuda:N".
        budget_s: seconds; no case begins after them, and those that did not are rows with a reason.
        bytes_per_s: copy rate of the device, read plus written; measured here if not given.
        tune: also time the candidate cuts, which take minutes to compile.

    Returns:
        One row per case and arm: name, case, arm, num_bytes, floor_s, the timing, of_ceiling and, except for the
        eager arm, speedup over that: the median of rounds, with the lowest and the highest.

    Raises:
        UserError: CUDA without Triton.
    """
    budget = Budget(budget_s)
    rate = bytes_per_s or measure_rates(device).bytes_per_s
    say(f"kernels on {device}: copy {rate / 1e9:.4g} GB/s, read and written")
    cases = list(make_cases(small=device == "cpu"))
    rows: list[dict[str, Any]] = []
    for place, case in enumerate(cases):
        if budget.left_s <= 0:
            rows += [{"name": left.name, "reason": "the time was up"} for left in cases[place:]]
            break
        floor_us = case.num_bytes / rate * 1e6
        say(f"  {case.name}: {case.num_bytes / 1e6:.4g} MB, {floor_us:.4g} us at the least")
        for row in run_case(case, device, rate, most_s=budget.share(len(cases) - place), tune=tune):
            say("    " + _line(row))
            rows.append(row)
    return rows


def run_case(case: Case, device: str, rate: float, *, most_s: float, tune: bool) -> list[dict[str, Any]]:
    """One row per arm."""
    on_cpu = device == "cpu"
    num_sets = 1 if on_cpu else min(-(-SWEEP_BYTES // case.num_bytes), MAX_SETS)
    calls = {EAGER: case.plain}
    if not on_cpu:
        calls |= {COMPILED: torch.compile(case.plain, dynamic=False), KERNEL: case.kernel}
        calls |= {f"{KERNEL} {name}": call for name, call in case.candidates.items()} if tune else {}
    sets = [case.inputs(device, seed) for seed in range(num_sets)]
    arms: dict[str, Arm] = {name: partial(_sweep, call, sets) for name, call in calls.items()}
    if case.graphed and not on_cpu:
        arms = {name: _graph(arm) for name, arm in arms.items()}
    sweeps = interleave(
        arms, num_rounds=NUM_ROUNDS, window_s=WINDOW_S, num_warmup=2, most_s=most_s, device=device
    )
    timings = {
        arm: Timing(tuple(seconds / num_sets for seconds in sweep.times_s), sweep.num_calls * num_sets)
        for arm, sweep in sweeps.items()
    }
    rows = [_row(case, arm, timings, rate) for arm in timings]
    return [row | {"note": DRY_RUN} for row in rows] if on_cpu else rows


def make_cases(*, small: bool) -> Iterator[Case]:
    """Stable Diffusion 1.5's own shapes at 512 x 512 pixels, or small ones."""
    if small:
        yield norm_case((2, 64, 16, 16), torch.float32)
        yield step_case(2, side=8)
        yield noise_case(2, side=8)
        yield crop_case(2, image_size=64, size=16)
        return
    for shape in (*UNET_NORMS, *VAE_NORMS):
        yield norm_case(shape, torch.bfloat16)
    for num_images in (1, 16, 64):
        yield step_case(num_images, side=64)
    for num_images in (1, 64):
        yield noise_case(num_images, side=64)
        yield crop_case(num_images, image_size=512, size=112)


def norm_case(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Case:
    """Group norm and SiLU of a channels_last tensor (rows, channels, height, width).

    The torch arms stay in the tensor's dtype, as diffusers runs them.
    """

    def inputs(device: str, seed: int) -> Inputs:
        x, weight, bias = (_random(size, device, seed, dtype) for size in (shape, shape[1:2], shape[1:2]))
        return x.contiguous(memory_format=torch.channels_last), weight, bias

    def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.silu(F.group_norm(x, NUM_GROUPS, weight, bias, 1e-5))

    def kernel(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = group_norm(x, weight, bias, NUM_GROUPS, 1e-5, True)
        return y

    def cut(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, tiles: Tiles) -> torch.Tensor:
        y = torch.empty_like(x)
        run = run_whole if tiles.whole else run_split
        run(y, x, weight, bias, NUM_GROUPS, 1e-5, True, tiles)
        return y

    return Case(
        f"group_norm + SiLU {'x'.join(map(str, shape))} {_short(dtype)}",
        2 * math.prod(shape) * dtype.itemsize,
        inputs, plain, kernel, {str(tuple(tiles)): partial(cut, tiles=tiles) for tiles in norm_candidates(shape)},
    )  # fmt: skip


def norm_candidates(shape: tuple[int, int, int, int]) -> Iterator[Tiles]:
    """Cuts of a group norm worth timing."""
    per_group = power_of_two(shape[1] // NUM_GROUPS)
    rows = power_of_two(shape[2] * shape[3])
    if rows * per_group <= 4 * MAX_WHOLE:
        yield from (Tiles(True, rows, per_group, 0, num_warps) for num_warps in (2, 4, 8, 16))
    for channels in (32, 64, 128):
        for values, num_warps in ((2048, 4), (4096, 4), (8192, 8)):
            for blocks in (4, 16):
                yield Tiles(False, values // channels, channels, blocks * values // channels, num_warps)


def step_case(num_images: int, *, side: int) -> Case:
    """Guidance and a 2M step of every image of a full slot table."""
    latent = (4, side, side)

    def inputs(device: str, seed: int) -> Inputs:
        x, x0 = (_random((num_images, *latent), device, seed + k) for k in (0, 100))
        eps = _random((2 * num_images, *latent), device, seed + 200)
        slot = torch.arange(num_images, device=device)
        guidance = torch.full((num_images,), 3.0, device=device)
        # Of size 1, so that x neither dies out nor overflows however often it is stepped.
        rows = torch.tensor([1.0, 0.5, 0.5, 0.25, 0.25, 0.0], device=device).repeat(num_images, 1)
        return x, x0, eps, slot, slot, slot + num_images, guidance, rows, None

    cuts = [(block, num_warps) for block in (512, 1024, 2048, 4096) for num_warps in (2, 4, 8)]
    return Case(
        f"sampler_step of {num_images} images 4x{side}x{side} fp32",
        # x and x0 are read and written, two rows of eps are read.
        6 * num_images * math.prod(latent) * 4,
        inputs, step_slots, launch_step,
        {str(cut): partial(launch_step, block=cut[0], num_warps=cut[1]) for cut in cuts},
    )  # fmt: skip


def noise_case(num_images: int, *, side: int) -> Case:
    """Fresh noise of every image, from keys on the CPU."""
    shape = (4, side, side)

    def inputs(device: str, seed: int) -> Inputs:
        return torch.tensor([[seed, image, 0, 1] for image in range(num_images)]), torch.empty(
            0, device=device
        )

    def plain(keys: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
        return normal(keys.to(on.device), shape)

    def kernel(keys: torch.Tensor, on: torch.Tensor, *, block: int = 256) -> torch.Tensor:
        return fused_normal(keys, shape, device=on.device, block=block)

    return Case(
        f"noise of {num_images} images 4x{side}x{side} fp32",
        num_images * math.prod(shape) * 4,
        inputs, plain, kernel, {str(block): partial(kernel, block=block) for block in (128, 512, 1024)},
        graphed=False,
    )  # fmt: skip


def crop_case(num_images: int, *, image_size: int, size: int) -> Case:
    """Crops of faces that fill two thirds of their image, with the recogniser's input in float16.

    The ceiling counts the image's part that is seen, read once.
    """
    zoom = 1.5 * size / image_size
    half = (0.5, 0.5, 0.5)

    def inputs(device: str, seed: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        sides = (num_images, image_size, image_size, 3)
        images = torch.randint(0, 256, sides, dtype=torch.uint8, generator=generator).to(device)
        matrix = torch.tensor([[zoom, 0.1 * zoom, -0.25 * size], [-0.1 * zoom, zoom, -0.25 * size]])
        matrices = matrix.double().repeat(num_images, 1, 1).to(device)
        return images, matrices, size, half, half, False, torch.float16

    cuts = [(block, num_warps) for block in (128, 256, 512) for num_warps in (2, 4, 8)]
    return Case(
        f"crop of {num_images} images {image_size} to {size}",
        num_images * 3 * (round((size / zoom) ** 2) + 3 * size**2),
        inputs, warp_and_normalise, launch_crop,
        {str(cut): partial(launch_crop, block=cut[0], num_warps=cut[1]) for cut in cuts},
        graphed=False,
    )  # fmt: skip


def _sweep(call: Callable[..., object], sets: list[Inputs]) -> None:
    for inputs in sets:
        call(*inputs)


def _graph(arm: Arm) -> Arm:
    """The arm as a CUDA graph, once it has compiled what it needs."""
    for _ in range(3):
        arm()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        arm()
    return graph.replay


def _row(case: Case, arm: str, timings: dict[str, Timing], rate: float) -> dict[str, Any]:
    floor_s = case.num_bytes / rate
    row: dict[str, Any] = {"name": f"{case.name}, {arm}", "case": case.name, "arm": arm}
    row |= {"num_bytes": case.num_bytes, "floor_s": float(f"{floor_s:.6g}"), **timings[arm].row()}
    row["of_ceiling"] = float(f"{floor_s / timings[arm].median_s:.4g}")
    if arm != EAGER:
        ratio = compare(timings[EAGER], timings[arm])
        row |= {"speedup": ratio.median, "speedup_low": ratio.low, "speedup_high": ratio.high}
    return row


def _line(row: dict[str, Any]) -> str:
    median, low, high = (row[name] * 1e6 for name in ("median_s", "p10_s", "p90_s"))
    speedup = f", {row['speedup']:.2f}x eager" if "speedup" in row else ""
    return f"{row['arm']}: {median:.4g} us ({low:.4g} to {high:.4g}), {row['of_ceiling']:.1%} of the ceiling{speedup}"


def _random(
    shape: tuple[int, ...], device: str, seed: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
