"""Batch norm over two processes is batch norm over both their batches: outputs, gradients, running statistics."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from d2r_fast.recognition.training.distributed import Processes
from d2r_fast.recognition.training.sync_norm import synchronise

ROWS = 6


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5),
                         nn.BatchNorm1d(5, affine=False))  # fmt: skip


def images() -> torch.Tensor:
    return torch.randn(ROWS, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 3 + 50


def work(rank: int, folder: str) -> None:
    """What one of the two processes does; they are started by this file's name, as they cannot import `tests`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    step(rank, folder)
    gc.collect()  # the model holds the group, and itself: gloo aborts a process that ends with it
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def step(rank: int, folder: str) -> None:
    processes = Processes(rank, 2, torch.device("cpu"), torch.distributed.group.WORLD)
    model = synchronise(network(), processes)
    out = model(images()[rank * 4 : rank * 4 + 4])  # four rows and two: processes need not have as many
    (out**3).sum().backward()
    for parameter in model.parameters():
        torch.distributed.all_reduce(parameter.grad)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = {"out": out.detach(), "gradients": gradients, "state": model.state_dict()}
    torch.save(found, f"{folder}/{rank}.pt")


def test_two_processes_are_one_with_all_rows(tmp_path: Path) -> None:
    command = [sys.executable, __file__]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(120) for process in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    model = network()
    out = model(images())
    (out**3).sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.cat([each["out"] for each in found]), out.detach(), **close)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[0]["gradients"][name], parameter.grad, **close)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[0]["state"][name], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1]["state"][name], value, rtol=1e-5, atol=1e-5)


def test_evaluation_uses_the_running_statistics() -> None:
    alone = Processes(0, 1, torch.device("cpu"), None)
    model = synchronise(network(), alone).eval()
    torch.testing.assert_close(model(images()), network().eval()(images()))


@pytest.mark.parametrize("training", [False, True])
def test_names_stay(training: bool) -> None:
    alone = Processes(0, 1, torch.device("cpu"), None)
    assert set(synchronise(network().train(training), alone).state_dict()) == set(network().state_dict())


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
