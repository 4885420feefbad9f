"""PyTorch checkpoints from anywhere: read whole or refused in a line, and never run."""

import argparse
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from d2r_fast.recognition.network_file import load_network, save_network
from d2r_fast.recognition.torch_file import read_checkpoint

from .mininetworks import mini_config, mini_network, refused, same


@pytest.fixture
def lightning() -> Iterator[types.ModuleType]:
    """A package that is there while a checkpoint is written, and not when it is read."""
    module = types.ModuleType("absent_lightning")

    class ModelCheckpoint:
        def __setstate__(self, state: Any) -> None:
            raise RuntimeError("ran")

    class AttributeDict(dict[str, Any]):
        pass

    class Names(list[str]):
        pass

    for kind in (ModelCheckpoint, AttributeDict, Names):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


def test_a_lightning_checkpoint_is_read_without_lightning(
    lightning: types.ModuleType, tmp_path: Path
) -> None:
    network, callback = mini_network("adaface"), lightning.ModelCheckpoint()
    callback.best = "x"
    table = OrderedDict((f"model.{key}", value) for key, value in network.state_dict().items())
    table |= {"head.kernel": torch.rand(16, 4), "head.t": torch.zeros(1)}
    content = {
        "epoch": 3, "state_dict": table, "callbacks": {lightning.ModelCheckpoint: {"best": 1.0}, callback: callback},
        "hyper_parameters": lightning.AttributeDict(lr=0.1, args=argparse.Namespace(a=1), path=Path("x")),
        "names": lightning.Names(["a", "b"]), "optimizer_states": [{"state": {0: {"momentum": torch.rand(3)}}}],
    }  # fmt: skip
    torch.save(content, tmp_path / "adaface_ir18.ckpt")
    sys.modules.pop("absent_lightning")
    loaded = load_network(tmp_path / "adaface_ir18.ckpt")
    assert same(loaded.module, network)
    assert loaded.config == mini_config("adaface")
    assert "absent_lightning" not in sys.modules


class Runs:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def attacks(proof: Path) -> dict[str, Any]:
    import os
    import subprocess

    write = f"open({str(proof)!r}, 'w').close()"
    return {
        "system": Runs(os.system, f"touch {proof}"),
        "exec": Runs(exec, write),
        "eval": Runs(eval, write),
        "popen": Runs(subprocess.check_call, ["touch", str(proof)]),
        "import": Runs(__import__, "antigravity"),
        "load": Runs(torch.load, str(proof)),
        "getattr": Runs(getattr, os, "system"),
    }


KINDS = ("system", "exec", "eval", "popen", "import", "load", "getattr")


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_never_runs_code(kind: str, tmp_path: Path) -> None:
    """Whatever a pickle calls stays undone, and the tensors beside it are read."""
    proof, path, network = tmp_path / "proof", tmp_path / "evil.pt", mini_network()
    if kind == "getattr":
        content = {"state_dict": network.state_dict(), "x": Runs(getattr, Path(), "unlink")}
    else:
        content = {"state_dict": network.state_dict(), "x": attacks(proof)[kind]}
    torch.save(content, path)
    before = set(sys.modules)
    assert same(load_network(path).module, network)
    assert not proof.exists()
    assert "antigravity" not in set(sys.modules) - before


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cposix\nsystem\n(V%s\ntR.",
        b"(V%s\niposix\nsystem\n.",
        b"(cposix\nsystem\nV%s\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93V%s\n\x85R.",
        b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93V%s\n\x85R.",
        b"\x80\x02ccopyreg\n_reconstructor\n(cposix\nsystem\nV%s\ntR}Vx\nVy\nsb.",
    ],
)
def test_hand_written_pickles_never_run_code(opcodes: bytes, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", opcodes % f"touch {proof}".encode())
    refused(tmp_path / "evil.pt", "not a table of tensors")
    assert not proof.exists()


def test_a_pickle_cannot_change_the_stand_ins_of_the_next(tmp_path: Path) -> None:
    """State given to what a pickle finds stays with that one file."""
    vandal = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}V__call__\ncos\nsystem\ns\x86b."
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", vandal)
    refused(tmp_path / "evil.pt", "evil.pt is damaged")
    assert same(load_network(saved(tmp_path)).module, mini_network())


def test_the_attack_works_on_plain_pickle(tmp_path: Path) -> None:
    """What the test above holds off is real."""
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(attacks(proof)["exec"]))
    assert proof.exists()


def test_an_old_file_never_runs_code(tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "evil.pth"
    torch.save({"x": attacks(proof)["exec"]}, path, _use_new_zipfile_serialization=False)
    path.with_name("plain.pkl").write_bytes(pickle.dumps(attacks(proof)["system"]))
    refused(path, "is damaged or not a weight file")
    refused(tmp_path / "plain.pkl", "is damaged or no PyTorch checkpoint")
    assert not proof.exists()


def repack(path: Path, edit: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, edit(name, data))


def saved(tmp_path: Path, layout: str = "insightface") -> Path:
    torch.save(mini_network(layout).state_dict(), tmp_path / "b.pt")
    return tmp_path / "b.pt"


def test_cut_off_and_damaged_files(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for share in (0.0, 0.3, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "b.pt is damaged", "fetch it again")
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    refused(path, "b.pt is damaged", "CRC-32")
    save_network(tmp_path, mini_network(), mini_config(), about={})
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refused(tmp_path, "model.safetensors is damaged")


def test_a_pickle_that_lies_about_its_tensors(tmp_path: Path) -> None:
    class Rebuilds:
        def __init__(self, *args: Any) -> None:
            self.args = args

        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, self.args

    storage = torch.zeros(4)._typed_storage()
    for offset, size, stride in ((0, (8,), (1,)), (3, (2,), (1,)), (0, (10**12,), (0,)), (0, (2, 2), (3, 3))):
        torch.save({"x": Rebuilds(storage, offset, size, stride, False, OrderedDict())}, tmp_path / "lie.pt")
        refused(tmp_path / "lie.pt", "lie.pt is damaged")
    path = saved(tmp_path)
    repack(path, lambda name, data: data[:-4] if name.endswith("/data/0") else data)
    refused(path, "b.pt is damaged")
    repack(saved(tmp_path), lambda name, data: b"big" if name.endswith("byteorder") else data)
    refused(path, "big-endian")


def test_files_that_are_no_table(tmp_path: Path) -> None:
    path = tmp_path / "b.pt"
    torch.save(torch.rand(3), path)
    refused(path, "holds a Tensor, not a table of tensors")
    torch.save(argparse.Namespace(a=1), path)
    refused(path, "not a table of tensors")
    torch.save({}, path)
    refused(path, "is no tensors")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b/data.pkl", "")
        archive.writestr("b/constants.pkl", "")
    refused(path, "TorchScript archive")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.txt", "")
    refused(path, "no data.pkl in it")
    path.write_text("hello")
    refused(path, "is damaged or no PyTorch checkpoint (File is not a zip file)")
    refused(tmp_path / "none.pt", "none.pt is missing: give a run folder or a checkpoint")
    path.with_suffix(".onnx").write_text("")
    refused(path.with_suffix(".onnx"), "is an ONNX graph")


def test_tensors_of_one_storage_become_two(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    torch.save(
        {"a": shared[1:4], "b": [shared.view(2, 3).T, torch.nn.Parameter(shared[:0])]}, tmp_path / "b.pt"
    )
    content = read_checkpoint(tmp_path / "b.pt")
    first, (second, empty) = content["a"], content["b"]
    assert first.tolist() == [1, 2, 3]
    assert second.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert empty.numel() == 0
    first.zero_()
    assert second.sum() == 15
