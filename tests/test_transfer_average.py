"""The running mean of a generator: what it is, and that training does not notice it."""

from pathlib import Path

import torch
from torch import nn

from d2r_fast.translation.training.average import Average
from d2r_fast.translation.training.train_transfer import train_transfer

from .faketransfer import config, draw_pair, story


def test_mean_is_the_weighted_sum() -> None:
    network = nn.Linear(2, 1, bias=False)
    network.weight.data.zero_()
    average = Average(network, 0.5)
    expected = 0.0
    for step, value in enumerate((3.0, -1.0, 8.0, 2.0, 4.0, 6.0, 1.0, 0.0, 5.0, 7.0)):
        network.weight.data.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        torch.testing.assert_close(network.weight.data, torch.full((1, 2), expected))
    assert network.weight.data.tolist() == [[7.0, 7.0]]


def test_only_what_comes_out_differs(tmp_path: Path) -> None:
    draw_pair(tmp_path)
    for name, average in (("plain", None), ("mean", 0.9)):
        train_transfer(config(tmp_path, tmp_path / name, steps=4, average=average))
    assert list(story(tmp_path / "plain")) == list(story(tmp_path / "mean"))
    plain, mean = (
        torch.load(tmp_path / name / "generator.pth", weights_only=True) for name in ("plain", "mean")
    )
    assert plain.keys() == mean.keys()
    weights = [name for name in plain if name.endswith("weight")]
    assert not any(torch.equal(plain[name], mean[name]) for name in weights)
    last = torch.load(tmp_path / "mean" / "checkpoint.pt", weights_only=True)["objective"]["modules"]
    assert all(torch.equal(plain[name], last["generator"][name]) for name in weights)
