"""ONNX files: whole or not at all, weights outside where they are large, the same bytes for the same graph."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxscript import ir

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.export import onnx_file
from d2r_fast.export.onnx_file import write_onnx

from .exportkiller import make, value_of


def test_weights_lie_inside_where_they_are_small(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    written = write_onnx(make(3.0), path)
    assert list(written) == list(tmp_path.iterdir()) == [path]
    assert (written[path].sha256, written[path].num_bytes) == (sha256_file(path), path.stat().st_size)
    assert value_of(path) == 3.0


def test_weights_lie_outside_where_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "INLINE_BYTES", 1000)
    path, data = tmp_path / "net.onnx", tmp_path / "net.onnx.data"
    written = write_onnx(make(3.0), path)
    assert list(written) == [data, path]
    assert sorted(tmp_path.iterdir()) == [path, data]
    assert {file: entry.sha256 for file, entry in written.items()} == {
        file: sha256_file(file) for file in written
    }
    (weight,) = onnx.load(path, load_external_data=False).graph.initializer
    assert {entry.key: entry.value for entry in weight.external_data} == {
        "location": "net.onnx.data", "offset": "0", "length": "4000",
    }  # fmt: skip
    assert b"/" not in path.read_bytes()
    assert value_of(path) == 3.0
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in written:
        file.rename(moved / file.name)
    assert value_of(moved / "net.onnx") == 3.0


def test_weights_start_at_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "INLINE_BYTES", 1000)
    model = make(3.0)
    other = ir.val("other", const_value=ir.tensor(np.arange(500, dtype=np.float32), name="other"))
    shape = ir.val("shape", const_value=ir.tensor(np.arange(3), name="shape"))
    for value in (other, shape):
        model.graph.register_initializer(value)
    write_onnx(model, tmp_path / "net.onnx")
    places = {
        i.name: {e.key: e.value for e in i.external_data}.get("offset")
        for i in onnx.load(tmp_path / "net.onnx", load_external_data=False).graph.initializer
    }
    assert places == {"weight": "0", "other": "4096", "shape": None}
    loaded = {
        i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "net.onnx").graph.initializer
    }
    assert (loaded["other"] == np.arange(500)).all()
    assert (loaded["weight"] == 3.0).all()


def test_a_killed_writer_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    script = Path(__file__).with_name("exportkiller.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "out"], check=True, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert int(done.stdout) >= 8, (
        "temporary folder, two files, the old graph's removal, two renames, clean-up"
    )


def test_a_graph_that_is_not_valid_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_onnx(make(1.0), path)
    model = make(2.0)
    model.graph[0].op_type = "NoSuchOperator"
    with pytest.raises(
        (onnx.checker.ValidationError, onnx.shape_inference.InferenceError), match="NoSuchOperator"
    ):
        write_onnx(model, path)
    assert list(tmp_path.iterdir()) == [path]
    assert value_of(path) == 1.0


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(onnx_file, "write_synced", full)
    with pytest.raises(
        RunError, match=r"net\.onnx cannot be written: the disk is full and it needs 4,000 bytes"
    ):
        write_onnx(make(1.0), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its folder does not exist"):
        write_onnx(make(1.0), tmp_path / "no" / "net.onnx")
