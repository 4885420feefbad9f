"""TensorRT for RTX ahead of time, without a card: what is built, and what is said where it cannot be.

Engines run on their card in test_build_engines.
"""

import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends import trt as trt_backend
from d2r_fast.engine.backends.network import Port
from d2r_fast.engine.backends.trt import OPEN_SIZES, shape_range
from d2r_fast.engine.build_engines import build_engine, build_engines, load_engine
from d2r_fast.engine.config import Precision
from d2r_fast.engine.engine_file import Built
from d2r_fast.engine.engine_job import Job
from d2r_fast.engine.engine_wish import NETWORKS, Wish
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.export import networks

from .fakedata import names_in
from .tinynetwork import tiny_network

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a card does")
STEM = "unet-fp16-b4-128x128"


@pytest.fixture(scope="module")
def half_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    (path,) = networks.export_network(tiny_network(folder, side=16), folder / "unet.onnx", precision="fp16")
    return path


@pytest.fixture
def make_job(tmp_path: Path, half_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Jobs for the tiny network in fp16, by default for sm89."""

    def export(network: networks.Exportable, path: Path, **_: Any) -> tuple[Path, ...]:
        shutil.copyfile(half_onnx, path)
        return (path,)

    def make(*targets: str) -> Job:
        (tmp_path / "engines").mkdir(exist_ok=True)
        wish = Wish(backend="tensorrt-rtx", precision="fp16", batch_size=4, targets=targets or ("sm89",))
        return Job(tiny_network(tmp_path, side=16), tmp_path / "engines", wish.checked())

    monkeypatch.setattr(networks, "export_network", export)
    return make


@no_card
def test_an_engine_is_built_without_a_card_and_its_log_kept(make_job: Callable[..., Job]) -> None:
    engine, network = build_engine(make_job())
    assert network is None
    assert engine.record.parity.relative_l2 is None
    assert "no CUDA device" in engine.record.parity.where
    assert engine.record.key["target"] == {"device": "cuda", "targets": ["sm89"]}
    assert names_in(engine.sidecar.parent) == [f"{STEM}.json", f"{STEM}.log", f"{STEM}.plan"]
    assert "Engine generation completed" in engine.sidecar.with_suffix(".log").read_text()
    assert list(engine.record.files) == [f"tensorrt-rtx/{STEM}.plan"]
    assert isinstance(make_job().find(), Built)


@no_card
def test_one_engine_serves_several_compute_capabilities(make_job: Callable[..., Job]) -> None:
    build_engine(make_job("sm89", "sm120", "sm80"))
    for targets in (("sm80",), ("sm120", "sm89")):
        assert isinstance(make_job(*targets).find(), Built)
    assert "target targets" in str(make_job("sm86").find())


@no_card
def test_float32_is_for_cards_that_multiply_it(tmp_path: Path) -> None:
    def targets(precision: Precision, *wished: str) -> Any:
        wish = Wish(backend="tensorrt-rtx", precision=precision, batch_size=4, targets=wished)
        spec = Job(tiny_network(tmp_path, side=16), tmp_path / "engines", wish.checked()).spec
        return find_backend("tensorrt-rtx").target(spec)["targets"]

    assert "sm75" in targets("fp16")
    assert targets("fp32") == [name for name in targets("fp16") if name != "sm75"]
    with pytest.raises(UserError, match="does not multiply on sm75") as caught:
        targets("fp32", "sm75", "sm89")
    assert "build for some of sm80" in str(caught.value)


@no_card
def test_the_onnx_may_go_once_the_engine_is_there(make_job: Callable[..., Job]) -> None:
    build_engine(make_job())
    shutil.rmtree(make_job().root / "onnx")
    assert isinstance(make_job().find(), Built)


@no_card
def test_opening_without_a_card_is_refused_in_one_line(make_job: Callable[..., Job]) -> None:
    engine, _ = build_engine(make_job())
    with pytest.raises(UserError, match=r"backend tensorrt-rtx: there is no CUDA device here"):
        load_engine(make_job(), engine)


def ending(tmp_path: Path, command: str) -> str:
    """A stand-in for Python, as which the builder is started, that ends by this shell command."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{command}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("kill -9 $$", r"was ended by signal 9, which Linux sends where memory runs out"),
        ("kill -11 $$", r"was ended by signal 11"),
        ("echo '[E] no kernel for node 7'; exit 1", r"\[E\] no kernel for node 7"),
        ("exit 3", r"ended with status 3"),
    ],
)
def test_a_builder_that_dies_is_one_line_and_leaves_its_log(
    make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, says: str
) -> None:
    job = make_job()
    monkeypatch.setattr(sys, "executable", ending(tmp_path, command))
    with pytest.raises(RunError, match=says) as caught:
        build_engine(job)
    assert str(caught.value).startswith("unet failed in tensorrt-rtx (")
    assert "\n" not in str(caught.value)
    assert names_in(job.sidecar.parent) == ["unet-fp16-b4.failed.log"]


def test_a_graph_that_cannot_be_parsed_is_one_line(make_job: Callable[..., Job], half_onnx: Path) -> None:
    job = make_job()
    job.source.onnx.write_bytes(half_onnx.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"unet failed in tensorrt-rtx \(.*\): its log is "):
        build_engine(job)


BUILDER = """
import time
from d2r_fast.engine.backends.trt_builder import die_with_parent
die_with_parent()
print("ready", flush=True)
time.sleep(60)
"""
STARTER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_a_builder_does_not_outlive_who_started_it() -> None:
    command = [sys.executable, "-c", STARTER, BUILDER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
        starter.kill()
        started_s = time.monotonic()
        assert starter.stdout.read() == ""  # ends when the last process that could write there has ended
        assert time.monotonic() - started_s < 30


def test_only_open_sizes_have_a_range() -> None:
    latents = Port("latents", torch.float32, (8, 4, 64, 64))
    assert shape_range(latents) == [[8, 4, 64, 64]] * 3
    crops = Port("crops", torch.float32, (8, 3, "height", "width"))
    assert shape_range(crops) == [[8, 3, size, size] for size in OPEN_SIZES]


def test_a_missing_package_is_said_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_backend, "find_spec", lambda name: None)
    for name, extra in (("tensorrt", "gpu"), ("tensorrt-rtx", "tensorrt-rtx")):
        for reason in (find_backend(name).why_not("cuda:0"), find_backend(name).why_not_build("cuda", ())):
            assert f"pip install 'd2r-fast[{extra}]'" in str(reason)


@no_card
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_mini_network_is_built_ahead_of_time(mini_models: Path, tmp_path: Path, precision: Any) -> None:
    build_engines(mini_models, tmp_path, backend="tensorrt-rtx", precision=precision, targets="sm80,sm89")
    plans = {path.name.split("-")[0] for path in (tmp_path / "tensorrt-rtx").glob("*.plan")}
    assert plans == set(NETWORKS)
