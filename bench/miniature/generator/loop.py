"""Steps of a training that may be stopped: the same weights in the end, bit for bit on one machine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2r_fast.engine.console import Meter
from d2r_fast.engine.errors import RunError
from d2r_fast.recognition.training.run_folder import RunFolder, read_checkpoint
from d2r_fast.translation.training.average import Average

LOG_EVERY, SAVE_EVERY = 50, 250
WARM_UP = 0.02
"""Share of the steps in which the learning rate rises; it falls to 0 along a cosine after them."""
MOST_NORM = 1.0
"""Of the gradient."""
Step = Callable[[int], Mapping[str, Tensor]]
"""From the step's number, from 0, to losses by name, of which "loss" is minimised."""
Pace = Callable[[str], float]


def run_steps(
    folder: Path, network: nn.Module, step: Step, *, about: Mapping[str, Any], num_steps: int,
    learning_rate: float, average: float, pace: Pace = lambda name: 1.0,
) -> None:  # fmt: skip
    """Train `network` in place, from the folder's checkpoint if it has one; its weights are the mean in the end.

    Args:
        folder: of the run, which must be new or of the same `about`.
        pace: by the name of a parameter, its learning rate over `learning_rate`.

    Raises:
        UserError: the folder holds another run.
        RunError: it is in use, the disk is full, or the loss is not a number.
    """
    optimiser = torch.optim.AdamW(
        _groups(network, pace), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    means = Average(network, average)
    with RunFolder.open(folder, about) as run:
        begun = _resume(run, network, optimiser, means)
        network.train()
        with Meter(folder.name, total=num_steps, already=begun, unit="steps") as meter:
            for number in range(begun, num_steps):
                for group in optimiser.param_groups:
                    group["lr"] = group["pace"] * learning_rate * share(number / num_steps)
                losses = step(number)
                optimiser.zero_grad(set_to_none=True)
                losses["loss"].backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), MOST_NORM)
                optimiser.step()
                means.update(number)
                meter.advance(1, _note(run, number + 1, losses))
                if (number + 1) % SAVE_EVERY == 0 or number + 1 == num_steps:
                    _check(losses, number + 1)
                    _save(run, network, optimiser, means, number + 1)
        run.finish()
    with torch.no_grad(), means.applied():
        held = [parameter.detach().clone() for parameter in network.parameters()]
    for parameter, mean in zip(network.parameters(), held, strict=True):
        parameter.data.copy_(mean)
    network.eval()


def _groups(network: nn.Module, pace: Pace) -> list[dict[str, Any]]:
    """The parameters, those of one pace together."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault(pace(name), []).append(parameter)
    return [{"params": parameters, "pace": rate} for rate, parameters in groups.items()]


def share(done: float) -> float:
    """Of the learning rate, with this share of the steps done."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (done - WARM_UP) / (1 - WARM_UP))).item())


def _note(run: RunFolder, step: int, losses: Mapping[str, Tensor]) -> str:
    if step % LOG_EVERY:
        return ""
    _check(losses, step)
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    run.log(step=step, **values)
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _check(losses: Mapping[str, Tensor], step: int) -> None:
    if not losses["loss"].isfinite():
        raise RunError(f"the loss of step {step} is not a finite number: give a smaller learning rate")


def _save(
    run: RunFolder, network: nn.Module, optimiser: torch.optim.Optimizer, means: Average, step: int
) -> None:
    run.save(
        {"step": step, "network": network.state_dict(), "optimiser": optimiser.state_dict(),
         "average": means.state_dict()}
    )  # fmt: skip


def _resume(run: RunFolder, network: nn.Module, optimiser: torch.optim.Optimizer, means: Average) -> int:
    state = read_checkpoint(run.checkpoint)
    step = 0 if state is None else int(state["step"])
    run.begin(step)
    if state is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        means.load_state_dict(state["average"])
    return step
