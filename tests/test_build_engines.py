"""Building engines and opening them: accurate or refused, used again only where nothing differs."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from d2r_fast.engine import build_engines as building
from d2r_fast.engine import engine_needs, engine_parity, engine_source
from d2r_fast.engine.backends.network import Rows
from d2r_fast.engine.backends.ov import OpenVino
from d2r_fast.engine.build_engines import build_engine, build_engines, load_engine, open_engine
from d2r_fast.engine.engine_file import Built
from d2r_fast.engine.engine_job import Job
from d2r_fast.engine.engine_lock import locked
from d2r_fast.engine.engine_wish import Wish
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import stale
from d2r_fast.export import networks

from .fakedata import names_in
from .tinynetwork import tiny_network

CPU = ("torch", "onnxruntime", "openvino")
MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where exports of the tiny network are kept from test to test."""
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(autouse=True)
def _export_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(
        network: networks.Exportable, path: Path, *, precision: networks.Precision
    ) -> tuple[Path, ...]:
        if "tiny.seed" not in network.files:
            return export_network(network, path, precision=precision)
        digest = hashlib.sha256(repr((network.source, precision)).encode()).hexdigest()
        kept = exported / f"{digest}.onnx"
        if not kept.is_file():
            export_network(network, kept, precision=precision)
        shutil.copyfile(kept, path)
        return (path,)

    export_network = networks.export_network
    monkeypatch.setattr(networks, "export_network", export)


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """Jobs for the tiny network; each call opens it anew, as a new process would."""

    def make(backend: str = "openvino", *, seed: int = 0, side: int = 16, **wish: Any) -> Job:
        network = tiny_network(tmp_path, seed=seed, side=side)
        (tmp_path / "engines").mkdir(exist_ok=True)
        return Job(
            network, tmp_path / "engines", Wish(**{"backend": backend, "precision": "fp32"} | wish).checked()
        )

    return make


@pytest.fixture
def tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of open_engine for a model folder whose UNet is the tiny network."""
    monkeypatch.setattr(networks, "open_network", lambda name, models, **_: tiny_network(tmp_path, side=16))
    return {
        "models": tmp_path, "engines": tmp_path / "engines", "precision": "fp32", "device": "cpu", "batch_size": 8,
    }  # fmt: skip


def built(job: Job) -> Built[Any]:
    return build_engine(job)[0]


@pytest.mark.parametrize("backend", CPU)
def test_a_built_engine_is_accurate_and_used_again(make_job: MakeJob, backend: str) -> None:
    assert "is not there" in str(make_job(backend).find())
    record = built(make_job(backend)).record
    assert record.parity.worst is not None
    assert 0 <= record.parity.worst <= record.parity.limit == 1e-5
    assert record.key["batch_size"] == 1
    assert record.key["shapes"]["latents"] == [1, 4, 16, 16]
    found = make_job(backend).find()
    assert isinstance(found, Built)
    assert found.record == record
    inputs = make_job().network.random_inputs(3, seed=5)
    outputs = Rows(load_engine(make_job(backend), found))(inputs)
    expected = make_job().network.reference(inputs)
    torch.testing.assert_close(outputs["noise"], expected["noise"], rtol=1e-5, atol=1e-5)


def test_backends_share_one_onnx(make_job: MakeJob) -> None:
    built(make_job("openvino"))
    onnx = make_job().root / "onnx" / "unet-fp32-128x128.onnx"
    written = onnx.stat().st_mtime_ns, onnx.stat().st_ino
    built(make_job("onnxruntime"))
    assert (onnx.stat().st_mtime_ns, onnx.stat().st_ino) == written


# A processor with bfloat16 takes another hint at its word, and its answers are then refused.
FP32 = {"INFERENCE_PRECISION_HINT": "f32"}
CAUSES: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], dict[str, Any]]]] = {
    "weights": ("source tiny.seed", lambda _: {"seed": 1}),
    "exporter": ("exporter onnx", lambda patch: pretend(patch, "onnx", "9.9.9")),
    "backend version": ("backend_version 2", lambda patch: answer(patch, "version", "2099.1")),
    "flags": ("flags LOG_LEVEL", lambda patch: answer(patch, "flags", FP32 | {"LOG_LEVEL": "LOG_NONE"})),
    "target": ("target processor", lambda patch: answer(patch, "target", {"processor": "another"})),
}


def pretend(patch: pytest.MonkeyPatch, package: str, version: str) -> dict[str, Any]:
    known = importlib.metadata.version
    patch.setattr(engine_source, "version", lambda name: version if name == package else known(name))
    return {}


def answer(patch: pytest.MonkeyPatch, method: str, value: Any) -> dict[str, Any]:
    patch.setattr(OpenVino, method, lambda *_: value)
    return {}


@pytest.mark.parametrize("cause", CAUSES)
def test_what_changes_is_named_and_built_again(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    before = built(make_job()).record
    says, change = CAUSES[cause]
    changed = change(monkeypatch)
    assert f" has {says.split()[0]}" in str(make_job(**changed).find())
    assert says.split()[1] in str(make_job(**changed).find())
    after = built(make_job(**changed)).record
    assert after.key != before.key
    assert isinstance(make_job(**changed).find(), Built)


def test_another_size_is_another_engine(make_job: MakeJob) -> None:
    built(make_job())
    assert "192x192.json is not there" in str(make_job(side=24).find())


@pytest.mark.parametrize("part", ["network", "precision", "batch_size", "shapes", "backend", "onnx_sha256"])
def test_a_sidecar_put_in_another_ones_place_is_found_out(make_job: MakeJob, part: str) -> None:
    engine = built(make_job())
    other = {"batch_size": 2, "shapes": {}, "onnx_sha256": {}}.get(part, "other")
    record = engine.record.model_copy(update={"key": engine.record.key | {part: other}})
    engine.sidecar.write_text(record.model_dump_json())
    assert f"has {part}" in str(make_job().find())


def test_open_engine_builds_once_then_opens(
    tiny_models: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = open_engine("unet", backend="openvino", **tiny_models)
    assert "building for openvino in fp32, about" in capsys.readouterr().err
    assert (network.batch_size, network.device) == (1, "cpu")
    monkeypatch.setattr(building, "build_engine", lambda job: pytest.fail("built again"))
    again = open_engine("unet", backend="openvino", **tiny_models)
    inputs = tiny_network(tiny_models["models"], side=16).random_inputs(1, seed=3)
    assert torch.equal(network(inputs)["noise"], again(inputs)["noise"])
    assert capsys.readouterr().err == ""


def test_open_engine_refuses_what_differs_where_it_may_not_build(
    tiny_models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"is not there: build it again by `d2r-fast build-engines`"):
        open_engine("unet", backend="openvino", build=False, **tiny_models)
    open_engine("unet", backend="openvino", **tiny_models)
    answer(monkeypatch, "version", "2099.1")
    with pytest.raises(UserError, match=r"has backend_version 2.*, where 2099\.1 is wanted: build it again"):
        open_engine("unet", backend="openvino", build=False, **tiny_models)


def test_a_truncated_file_is_refused_or_built_again(tiny_models: dict[str, Any]) -> None:
    open_engine("unet", backend="onnxruntime", **tiny_models)
    onnx = tiny_models["engines"] / "onnx" / "unet-fp32-128x128.onnx"
    whole = onnx.read_bytes()
    onnx.write_bytes(whole[:-7])
    with pytest.raises(UserError, match=r"has [\d,]+ bytes where [\d,]+ were written"):
        open_engine("unet", backend="onnxruntime", build=False, **tiny_models)
    open_engine("unet", backend="onnxruntime", **tiny_models)
    assert onnx.read_bytes() == whole
    onnx.write_bytes(whole[:-7] + bytes(7))
    with pytest.raises(UserError, match="its sha256 differs"):
        open_engine("unet", backend="onnxruntime", **tiny_models)


@pytest.mark.parametrize("limit", [0.0, float("nan")])
def test_an_engine_above_the_limit_is_refused_and_leaves_nothing(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    monkeypatch.setitem(engine_parity.LIMITS, "fp32", limit)
    with pytest.raises(
        RunError, match=r"unet by openvino in fp32 is not accurate: noise differs .* choose another"
    ):
        build_engine(make_job())
    assert names_in(make_job().root / "openvino") == []


def test_an_engine_that_gives_no_numbers_is_refused(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        name, device, batch_size, num_streams = "unet", "cpu", 1, 1

        def __init__(self, spec: Any) -> None:
            self.inputs, self.outputs = spec.inputs, spec.outputs

        def __call__(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"noise": inputs["latents"] / 0}

    monkeypatch.setattr(OpenVino, "load", lambda self, spec, files, source: Broken(spec))
    with pytest.raises(RunError, match=r"differs from float32 by (nan|inf)"):
        build_engine(make_job())


def test_an_engine_built_elsewhere_is_compared_when_it_first_runs(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        answer(patch, "why_not", "there is no card")
        patch.setattr(OpenVino, "why_not_build", lambda *_: None)
        engine = built(make_job())
        assert engine.record.parity.relative_l2 is None
        assert "there is no card" in engine.record.parity.where
        with pytest.raises(UserError, match="backend openvino: there is no card"):
            load_engine(make_job(), engine)
    load_engine(make_job(), engine)
    found = make_job().find()
    assert isinstance(found, Built)
    assert found.record.parity.worst is not None
    assert found.record.parity.worst < 1e-5
    engine.sidecar.write_text(engine.record.model_dump_json())
    monkeypatch.setitem(engine_parity.LIMITS, "fp32", 0.0)
    with pytest.raises(RunError, match="is not accurate"):
        load_engine(make_job(), engine)
    assert "is not there" in str(make_job().find())


@pytest.mark.parametrize(
    ("free", "says"),
    [
        (10**3, r"unet needs .* GiB on cpu .*: it does not fit"),
        (3 * 10**6, r"set OMP_NUM_THREADS=\d or less"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_it_is_built(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, free: int, says: str
) -> None:
    monkeypatch.setattr(engine_needs, "free_bytes", lambda device: free)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    with pytest.raises(RunError, match=says):
        build_engine(make_job(side=32))
    assert not (make_job(side=32).root / "onnx").exists()


def test_a_full_disk_is_said_before_the_build(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()
    usage = shutil.disk_usage(job.root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        RunError, match=r"has 1,000 bytes free and the unet engine needs [\d,]+: free some space"
    ):
        build_engine(job)


def test_a_graph_that_fails_the_checker_is_one_line(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*_: Any, **__: Any) -> tuple[Path, ...]:
        raise onnx.checker.ValidationError("Nodes in a graph must be topologically sorted\nand more")

    monkeypatch.setattr(networks, "export_network", export)
    with pytest.raises(
        RunError, match=r"unet exports to an ONNX graph that is not valid \(Nodes .* sorted\): "
    ) as caught:
        build_engine(make_job())
    assert "\n" not in str(caught.value)
    assert names_in(make_job().root / "onnx") == names_in(make_job().root / "openvino") == []


@pytest.mark.parametrize(
    ("backend", "module"), [("torch", "torch_eager"), ("onnxruntime", "ort"), ("openvino", "ov")]
)
def test_a_backend_that_fails_in_a_run_names_the_network(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, backend: str, module: str
) -> None:
    network = build_engine(make_job(backend))[1]
    assert network is not None
    inputs = make_job().network.random_inputs(1, seed=0)
    monkeypatch.setattr(f"d2r_fast.engine.backends.{module}.check_inputs", lambda *_: None)
    with pytest.raises(RunError, match=rf"^unet failed in {backend} \(.+\)") as caught:
        network(inputs | {"latents": inputs["latents"][:, :3]})
    assert "\n" not in str(caught.value)


def test_an_engine_that_is_there_is_opened_where_none_can_be_built(
    tiny_models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_engine("unet", backend="openvino", **tiny_models)
    answer(monkeypatch, "why_not_build", "it needs a compiler")
    open_engine("unet", backend="openvino", **tiny_models)
    with pytest.raises(UserError, match="backend openvino: it needs a compiler"):
        open_engine("unet", backend="openvino", **tiny_models | {"engines": tiny_models["models"] / "empty"})


KILLED = """
import sys
from pathlib import Path
from tinynetwork import tiny_network
from d2r_fast.engine.build_engines import build_engine
from d2r_fast.engine.engine_job import Job
from d2r_fast.engine.engine_lock import locked
from d2r_fast.engine.engine_wish import Wish
folder = Path(sys.argv[1])
with locked(folder / "engines"):
    wish = Wish(backend="openvino", precision="fp32").checked()
    build_engine(Job(tiny_network(folder, side=16), folder / "engines", wish))
"""


def test_a_build_that_is_killed_leaves_nothing_usable(make_job: MakeJob, tmp_path: Path) -> None:
    root = make_job().root
    command = [sys.executable, "-c", KILLED, tmp_path]
    paths = {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | paths) as process:
        assert process.stderr is not None
        assert any("exporting" in line for line in process.stderr)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(stale(root / "onnx")) == len(stale(root / "openvino")) == 1
    assert list(root.rglob("*.json")) == []
    assert "is not there" in str(make_job().find())
    with locked(root):
        build_engine(make_job())
    assert names_in(root / "openvino") == ["unet-fp32-b1-128x128.json"]
    assert names_in(root / "onnx") == ["unet-fp32-128x128.json", "unet-fp32-128x128.onnx"]


def test_build_engines_says_what_it_built_and_what_was_there(
    tiny_models: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def lines() -> list[str]:
        models, engines = tiny_models["models"], tiny_models["engines"]
        build_engines(models, engines, backend="openvino", precision="fp32", networks="unet")
        return capsys.readouterr().out.splitlines()

    (first,), (second,) = lines(), lines()
    assert re.fullmatch(
        r"unet: built in [\d.]+ s, 0\.0 MB, relative L2 error \d\.\de-0\d, allowed 1e-05", first
    )
    assert re.fullmatch(r"unet: up to date, 0\.0 MB, relative L2 error \d\.\de-0\d, allowed 1e-05", second)
