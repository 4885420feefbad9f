"""Embedders: the same embeddings from a network's folder, a checkpoint and its ONNX, whatever the order of colours."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.recognition import embedder as embedder_module
from d2r_fast.recognition.embedder import TorchEmbedder, normalise, open_embedder
from d2r_fast.recognition.network_file import LoadedNetwork, save_network, weights_sha256

from .fakebench import keep_weights_beside, write_onnx
from .mininetworks import LAYOUTS, copy_exported, crops, mini_config, mini_network

CROPS = crops(5)


@pytest.fixture(scope="module", params=LAYOUTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini network of each layout as our folder, and beside it as a checkpoint and as ONNX."""
    path = tmp_path_factory.mktemp("network") / request.param
    path.mkdir()
    network = mini_network(request.param)
    save_network(path, network, mini_config(request.param), about={})
    torch.save({"state_dict": {f"model.{k}": v for k, v in network.state_dict().items()}}, path / "b.ckpt")
    copy_exported(request.param, tmp_path_factory.getbasetemp(), path / "r.onnx")
    return path


def expected(layout: str) -> np.ndarray:
    """(x / 255 - 0.5) / 0.5 of the layout's colours, through the module itself."""
    pixels = CROPS if layout == "insightface" else CROPS[..., ::-1]
    x = torch.from_numpy((pixels / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).float().contiguous()
    with torch.no_grad():
        return mini_network(layout)(x).numpy()


def close(given: np.ndarray, wanted: np.ndarray, limit: float = 1e-5) -> None:
    assert given.dtype == np.float32
    assert given.shape == wanted.shape
    assert np.linalg.norm(given - wanted) <= limit * np.linalg.norm(wanted)


@pytest.mark.parametrize("file", ["", "b.ckpt", "r.onnx"])
def test_rgb_crops_reach_every_network_in_its_own_colours(folder: Path, file: str) -> None:
    embedder = open_embedder(folder / file, device="cpu", batch_size=4)
    wanted = expected(folder.name)
    close(embedder(CROPS), wanted)
    swapped = embedder(np.ascontiguousarray(CROPS[..., ::-1]))
    assert np.linalg.norm(swapped - wanted) > 0.05 * np.linalg.norm(wanted)  # the wrong order is seen
    assert embedder.embedding_dim == 16
    assert embedder.size == (112, 112)
    weights = folder / (file or "model.safetensors")
    shown = file or f"{folder.name}/model.safetensors"
    assert embedder.name == f"{shown} {sha256_file(weights)[:12]}"


def test_embeddings_are_raw(folder: Path) -> None:
    norms = np.linalg.norm(open_embedder(folder, device="cpu", batch_size=5)(CROPS), axis=1)
    assert norms.std() > 1e-3
    assert abs(norms - 1).min() > 0.01


def test_other_crops_and_the_batch_do_not_matter(folder: Path) -> None:
    whole = open_embedder(folder, device="cpu", batch_size=8)(CROPS)
    four = open_embedder(folder, device="cpu", batch_size=4)
    assert np.array_equal(four(CROPS[:3]), four(CROPS)[:3])
    assert np.array_equal(four(CROPS[4:]), four(np.concatenate([CROPS[4:], CROPS[:2]]))[:1])
    close(four(CROPS), whole)
    assert np.array_equal(four(CROPS[::-1]), four(np.ascontiguousarray(CROPS[::-1])))


def test_no_crops_no_embeddings(folder: Path) -> None:
    for file in ("", "r.onnx"):
        given = open_embedder(folder / file, device="cpu")(CROPS[:0])
        assert given.shape == (0, 16)
        assert given.dtype == np.float32


def test_bfloat16_is_near_and_another(folder: Path) -> None:
    full = open_embedder(folder, device="cpu", batch_size=5)(CROPS)
    low = open_embedder(folder, device="cpu", batch_size=5, precision="bf16")(CROPS)
    close(low, full, limit=0.05)
    assert not np.array_equal(low, full)


def test_a_network_in_training_is_embedded_in_eval_mode() -> None:
    network = mini_network("adaface").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    embedder = TorchEmbedder(LoadedNetwork(network, mini_config("adaface"), "x"), device="cpu", batch_size=2)
    close(embedder(CROPS), expected("adaface"))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_normalise() -> None:
    pixels = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    assert normalise(pixels, "rgb").flatten().tolist() == pytest.approx([-1, -0.6, 1])
    assert normalise(pixels, "bgr").flatten().tolist() == pytest.approx([1, -0.6, -1])


def test_crops_of_another_kind_are_a_mistake(folder: Path) -> None:
    embedder = open_embedder(folder, device="cpu")
    with pytest.raises(AssertionError, match="float32"):
        embedder(CROPS.astype(np.float32))
    with pytest.raises(AssertionError, match="96"):
        embedder(np.zeros((1, 96, 112, 3), np.uint8))


def test_refusals(folder: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"device": "tpu"}, "device 'tpu' is not there"),
        (
            {"device": "cpu", "precision": "bf16"},
            "precision bf16 for .*r.onnx: an ONNX graph computes as it is",
        ),
    ):
        with pytest.raises(UserError, match=message):
            open_embedder(folder / "r.onnx", **options)
    with pytest.raises(
        UserError, match=r"none\.onnx is missing: give a run folder, an ONNX recogniser or a checkpoint$"
    ):
        open_embedder(tmp_path / "none.onnx", device="cpu")
    with pytest.raises(UserError, match="none is missing: give a run folder or a checkpoint"):
        open_embedder(tmp_path / "none", device="cpu")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((folder / "r.onnx").read_bytes()[:100])
    with pytest.raises(UserError, match="is not a usable ONNX graph"):
        open_embedder(broken, device="cpu")


def test_advice_names_options_that_there_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder_module, "find_device", lambda device: device)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        UserError, match=r"cannot run on cuda .*onnxruntime-gpu in its place, or choose --device cpu$"
    ):
        open_embedder(folder / "r.onnx", device="cuda")
    with pytest.raises(UserError, match=r"or choose --recogniser-device cpu$"):
        Recogniser.load(folder / "r.onnx", device="cuda")


def test_weights_beside_an_onnx_are_in_its_name(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx")
    assert weights_sha256(tmp_path / "net.onnx") == sha256_file(tmp_path / "net.onnx")
    keep_weights_beside(tmp_path / "net.onnx")
    before = open_embedder(tmp_path / "net.onnx", device="cpu").name
    beside = tmp_path / "weights.bin"
    beside.write_bytes(beside.read_bytes()[::-1])
    after = open_embedder(tmp_path / "net.onnx", device="cpu").name
    assert before.split()[0] == after.split()[0] == "net.onnx"
    assert before != after
    beside.unlink()
    with pytest.raises(UserError, match=r"weights in weights\.bin, which is missing"):
        weights_sha256(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="not a usable ONNX graph"):
        weights_sha256(tmp_path / "net.onnx")


def test_an_onnx_of_another_kind_is_refused(tmp_path: Path) -> None:
    grey, scores = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("grey", ["N", 1, 112, 112]), ("scores", ["N", 12544]))
    )
    graph = helper.make_graph([helper.make_node("Flatten", ["grey"], ["scores"])], "g", [grey], [scores])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "grey.onnx")
    with pytest.raises(
        UserError, match=r"grey\.onnx is not a recogniser: it takes .*wanted is one float32 \(N,3,H,W\)"
    ):
        open_embedder(tmp_path / "grey.onnx", device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_the_cpu_to_rounding(folder: Path) -> None:
    wanted = open_embedder(folder, device="cpu")(CROPS)
    close(open_embedder(folder, device="cuda", batch_size=4)(CROPS), wanted, limit=1e-4)
    for precision, limit in (("bf16", 0.05), ("fp16", 0.01)):
        close(open_embedder(folder, device="cuda", precision=precision)(CROPS), wanted, limit=limit)
