"""A step of the slot table against the sampler's own expression, bit for bit, in torch and in the kernel."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.configs import SCHEDULER_CONFIG
from d2r_fast.engine.schedule import OF_NOISE, OF_X0_BEFORE, make_schedule, step
from d2r_fast.kernels.sampler_step import launch_step, sampler_step, step_slots

from .kernel_device import DEVICE, MARKS, draw, without_triton

pytestmark = MARKS
GUIDED, UNGUIDED, FIRST, NOISY = range(4)
"""Images of `make`, which complete a step in the slots 4, 1, 0 and 2 of five."""
SHAPES = [(4, 8, 8), (4, 5, 7), (1, 1, 1), (3, 17, 31)]


@dataclass(frozen=True)
class Table:
    """The arguments of `sampler_step`."""

    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    slot: torch.Tensor
    cond_row: torch.Tensor
    uncond_row: torch.Tensor
    guidance: torch.Tensor
    rows: torch.Tensor
    noise: torch.Tensor | None

    def run(self, function: Callable[..., None] = step_slots) -> tuple[torch.Tensor, torch.Tensor]:
        """x and x0 after the step, on the CPU."""
        tensors = [None if tensor is None else tensor.clone().to(DEVICE) for tensor in vars(self).values()]
        function(*tensors)
        assert tensors[0] is not None
        assert tensors[1] is not None
        return tensors[0].cpu(), tensors[1].cpu()

    def pick(self, images: list[int]) -> "Table":
        """These images alone, in this order."""
        return replace(
            self,
            **{
                name: getattr(self, name)[images]
                for name in ("slot", "cond_row", "uncond_row", "guidance", "rows")
            },
            noise=None if self.noise is None else self.noise[images],
        )


def public(*tensors: Any) -> None:
    x, x0, eps, *rest = tensors
    names = ("slot", "cond_row", "uncond_row", "guidance", "rows", "noise")
    sampler_step(x, x0, eps, **dict(zip(names, rest, strict=True)))


def make(shape: tuple[int, ...] = (4, 8, 8)) -> Table:
    """Four images at different steps: 2M with guidance, 2M without, 2M's first step, LCM."""
    multistep, consistency = (
        make_schedule(SCHEDULER_CONFIG, "dpm++2m", 25),
        make_schedule(SCHEDULER_CONFIG, "lcm", 4),
    )
    rows = torch.stack((multistep.table[7], multistep.table[24], multistep.table[0], consistency.table[1]))
    assert rows[FIRST, OF_X0_BEFORE] == 0
    assert rows[NOISY, OF_NOISE] != 0
    x0 = draw(5, *shape, seed=1)
    x0[0] = float("nan")  # what an image that failed has left behind in the slot where another begins
    noise = draw(4, *shape, seed=3)
    noise[:NOISY] = float("nan")
    return Table(
        x=draw(5, *shape), x0=x0, eps=draw(7, *shape, seed=2),
        slot=torch.tensor([4, 1, 0, 2]), cond_row=torch.tensor([3, 0, 6, 5]), uncond_row=torch.tensor([4, 0, 2, 5]),
        guidance=torch.tensor([3.0, 1.0, 7.5, float("nan")]), rows=rows, noise=noise,
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("function", [step_slots, launch_step, public])
def test_every_image_steps_as_the_sampler_does(function: Callable[..., None], shape: tuple[int, ...]) -> None:
    table = make(shape)
    assert table.noise is not None
    x, x0 = table.run(function)
    for image in range(4):
        slot, row = int(table.slot[image]), table.rows[image]
        eps = table.eps[table.cond_row[image]]
        if image in (GUIDED, FIRST):
            uncond = table.eps[table.uncond_row[image]]
            eps = uncond + float(table.guidance[image]) * (eps - uncond)
        before = torch.zeros(shape) if image == FIRST else table.x0[slot]
        noise = table.noise[image : image + 1] if image == NOISY else None
        after, clean = step(table.x[slot][None], eps[None], before[None], row, noise)
        assert torch.equal(x[slot], after[0])
        assert torch.equal(x0[slot], clean[0])
    assert torch.equal(x[3], table.x[3])
    assert torch.equal(x0[3], table.x0[3])


@pytest.mark.parametrize("function", [step_slots, launch_step])
def test_bits_do_not_depend_on_the_other_images(function: Callable[..., None]) -> None:
    table = make((4, 5, 7))
    x, x0 = table.run(function)
    for images in ([0], [1], [2], [3], [3, 1], [2, 0, 3, 1]):
        alone, alone0 = table.pick(images).run(function)
        slots = table.slot[images]
        assert torch.equal(alone[slots], x[slots])
        assert torch.equal(alone0[slots], x0[slots])


@pytest.mark.parametrize("function", [step_slots, launch_step])
def test_without_noise(function: Callable[..., None]) -> None:
    """An image that adds none has the same bits whether its neighbours do or not."""
    table = make()
    x, x0 = table.run(function)
    quiet, quiet0 = replace(table.pick([0, 1, 2]), noise=None).run(function)
    slots = table.slot[:3]
    assert torch.equal(quiet[slots], x[slots])
    assert torch.equal(quiet0[slots], x0[slots])


@pytest.mark.parametrize("function", [step_slots, launch_step])
def test_without_guidance_the_prediction_stays_as_it_is(function: Callable[..., None]) -> None:
    """Signs of zeros and the largest numbers included, which cond + g (cond - cond) would lose."""
    table = make((1, 1, 4)).pick([UNGUIDED])
    table.eps[0] = torch.tensor([-0.0, 3e38, 1e-42, float("inf")])
    table = replace(table, rows=torch.tensor([[1.0, -1.0, 0.0, 1.0, 0.0, 0.0]]), noise=None)
    table.x[1] = -0.0
    x, _ = table.run(function)
    assert x[1].flatten().tolist() == [0.0, pytest.approx(3e38), pytest.approx(1e-42, rel=1e-3), float("inf")]


@pytest.mark.parametrize("function", [step_slots, launch_step])
def test_no_noise_is_not_a_noise_of_zero(function: Callable[..., None]) -> None:
    """-0 + 0 is 0: the neighbours' noise would show in a sign."""
    table = make((1, 1, 4)).pick([UNGUIDED])
    table.x[1], table.x0[1], table.eps[0] = -0.0, 0.0, 1.0
    table = replace(
        table, rows=torch.tensor([[1.0, 1.0, 1.0, 0.0, -0.0, 0.0]]), noise=torch.zeros(1, 1, 1, 4)
    )
    assert table.run(function)[0][1].signbit().all()


@pytest.mark.parametrize("function", [step_slots, launch_step, public])
def test_no_images(function: Callable[..., None]) -> None:
    table = make()
    x, x0 = table.pick([]).run(function)
    assert torch.equal(x, table.x)
    assert torch.equal(x0[1:], table.x0[1:])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda x: x.double(), "x is torch.float64"),
        ("x", lambda x: x[0], r"expected \(S, C, h, w\)"),
        ("x0", lambda x: x[:4], r"x0 is .*\(4, 4, 8, 8\).*expected .*\(5, 4, 8, 8\)"),
        ("eps", lambda x: x.half(), "eps is torch.float16"),
        ("eps", lambda x: x[:, :, :4], "eps is"),
        ("eps", lambda x: x.to(memory_format=torch.channels_last), "contiguous"),
        ("slot", lambda x: x.int(), "slot is torch.int32"),
        ("cond_row", lambda x: x[:3], r"cond_row is .*\(3,\)"),
        ("uncond_row", lambda x: x[:, None], r"uncond_row is .*\(4, 1\)"),
        ("guidance", lambda x: x.double(), "guidance is torch.float64"),
        ("rows", lambda x: x[:, :5], r"rows is .*\(4, 5\)"),
        ("noise", lambda x: x[:3], r"noise is .*\(3, 4, 8, 8\)"),
    ],
)
def test_refuses_what_does_not_fit(name: str, change: Callable[..., Any], message: str) -> None:
    table = make()
    with pytest.raises(ValueError, match=message):
        replace(table, **{name: change(getattr(table, name))}).run(public)


@pytest.mark.skipif(DEVICE == "cuda", reason="CUDA does not look at indices")
@pytest.mark.parametrize(("name", "value"), [("slot", 5), ("cond_row", 7), ("uncond_row", 7)])
def test_the_cpu_looks_at_indices(name: str, value: int) -> None:
    table = make()
    getattr(table, name)[0] = value
    with pytest.raises(IndexError):
        table.run(public)


def test_the_kernel_needs_triton_and_the_cpu_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    without_triton(monkeypatch)
    if DEVICE == "cpu":
        make().run(public)
        with pytest.raises(UserError, match=r"pip install 'd2r-fast\[gpu\]'"):
            make().run(launch_step)
