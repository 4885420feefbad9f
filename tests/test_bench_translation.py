"""The methods' benchmark: what it compares, at mini size, and what it does when time is up."""

from functools import partial
from pathlib import Path

import pytest
import torch

from d2r_fast.bench import translation_section
from d2r_fast.bench.ceiling import Rates
from d2r_fast.bench.config import BenchConfig
from d2r_fast.bench.context import Bench
from d2r_fast.bench.measure import Budget
from d2r_fast.bench.plain_stylegan import ScaledWeights
from d2r_fast.bench.plain_transfer import transfer_arms
from d2r_fast.bench.plain_translation import EagerNetwork
from d2r_fast.bench.published import PUBLISHED, do_dead_work
from d2r_fast.bench.record import Found
from d2r_fast.bench.targets import target
from d2r_fast.bench.translation_section import CASES, SIDE, measure, measure_dead_work, write_weights
from d2r_fast.engine.samples import draw_samples
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.methods import METHODS, open_method
from d2r_fast.translation.stylegan.layers import ModulatedConv2d


def make_bench(folder: Path, *, size: str = "mini", budget_s: float = 300) -> Bench:
    bench = Bench(
        BenchConfig(backend=("torch",)),
        "cpu",
        folder,
        folder,
        Rates({"fp32": 1e11}, 1e10),
        Budget(budget_s),
        {},
    )
    bench.__dict__["size"] = size
    return bench


def test_every_method_is_measured_and_wanted_twice_as_fast() -> None:
    assert {case.method for case in CASES} == set(METHODS)
    for method in METHODS:
        assert target(f"{method} over its public-style loop", ("cpu", "full")) == 2
        assert target(f"{method} over networks alone", ("cpu", "full")) == 0.95


def test_a_method_against_its_public_loop_and_its_own_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        translation_section, "CASES", [case for case in CASES if case.method in ("vsait", "unsb")]
    )
    monkeypatch.setattr(translation_section, "TRAINED", ("decent",))
    monkeypatch.setattr(translation_section, "NUM_ROUNDS", 1)
    monkeypatch.setattr(translation_section, "MANY", 4)
    found = Found()
    measure(make_bench(tmp_path), found)
    assert [row["name"] for row in found.rows] == [
        *rows_of("vsait"), *rows_of("unsb"),
        "unsb: one evaluation without dead work", "unsb: one evaluation with dead work",
        "decent: training by a plain loop", "decent: training by train-transfer",
    ]  # fmt: skip
    assert [finding["name"] for finding in found.findings] == [
        "vsait over its public-style loop", "vsait over networks alone", "unsb over its public-style loop",
        "unsb over networks alone", "unsb without dead work over with it", "train-transfer decent over a plain loop",
    ]  # fmt: skip
    written = sorted(path.name for path in (tmp_path / "plain-vsait").iterdir())
    assert written == ["0.png", "1.png", "2.png", "3.png"]


def rows_of(method: str) -> list[str]:
    rivals = ("its public-style loop", "networks alone")
    pairs = [f"{method}: {row}" for rival in rivals for row in (rival, f"translate, by turns with {rival}")]
    return [f"{method} torch fp32", *pairs]


def test_without_time_nothing_is_measured_and_that_is_said(tmp_path: Path) -> None:
    found = Found()
    measure(make_bench(tmp_path, budget_s=0), found)
    assert len(found.rows) == len(CASES) + 3
    assert all(row["reason"] == "the time was up" for row in found.rows)


def test_dead_work_is_work_and_dead(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    subject = write_weights(next(case for case in CASES if case.method == "unsb"), bench)
    method = open_method(TranslateRecipe(method="unsb"), subject.weights)
    (network,) = method.networks((32, 32))
    inputs = network.random_inputs(1, seed=0)
    found = {}
    for dead in (False, True):
        eager = EagerNetwork(network, "cpu", publish=do_dead_work if dead else None)
        calls: list[torch.nn.Module] = []
        for layer in eager.module.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_pre_hook(partial(note, calls))
        found[dead] = eager(inputs)["translated"], len(calls)
    assert torch.equal(found[False][0], found[True][0])
    assert found[True][1] - found[False][1] == 5, "one convolution for each of the mini network's blocks"


def test_published_synthesis_scales_weights_and_gives_the_same_image(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    subject = write_weights(next(case for case in CASES if case.method == "stylegan-inversion"), bench)
    method = open_method(TranslateRecipe(method="stylegan-inversion"), subject.weights)
    encoder, generator = method.networks((SIDE, SIDE))
    for network, has_scaled in ((encoder, False), (generator, True)):
        inputs = network.random_inputs(2, seed=0)
        ours = EagerNetwork(network, "cpu")
        published = EagerNetwork(network, "cpu", publish=PUBLISHED["stylegan-inversion"])
        assert any(isinstance(part, ScaledWeights) for part in published.module.modules()) is has_scaled
        assert not any(isinstance(part, ModulatedConv2d) for part in published.module.modules())
        for name, found in published(inputs).items():
            torch.testing.assert_close(found, ours(inputs)[name], rtol=1e-4, atol=1e-4)


def note(calls: list[torch.nn.Module], layer: torch.nn.Module, given: object) -> None:
    """A hook that says that a layer ran."""
    calls.append(layer)


def test_unequal_outputs_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation_section.torch, "equal", lambda *_: False)
    with pytest.raises(RuntimeError, match="so it is not dead"):
        measure_dead_work(make_bench(tmp_path), Found(), 1.0)


def test_both_loops_train(tmp_path: Path) -> None:
    draw_samples(tmp_path, num_identities=1, images_per_identity=1, size=64)
    arms = transfer_arms("decent", tmp_path, num_steps=1, size=32, ngf=4, num_blocks=5, device="cpu")
    for loop in arms.values():
        before = [p.detach().clone() for p in loop._objective.modules["generator"].parameters()]  # type: ignore[attr-defined]
        loop()
        after = list(loop._objective.modules["generator"].parameters())  # type: ignore[attr-defined]
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
