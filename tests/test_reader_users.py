"""--reader: every command that takes it does with DALI what it does without, and writes down that it had it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from d2r_fast.engine.embed import Embedder, embed_images
from d2r_fast.engine.embedding_file import EmbeddingWriter
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.readers.reader import Reader, open_reader
from d2r_fast.engine.source import open_source
from d2r_fast.engine.write import encode
from d2r_fast.recognition.evaluation import evaluate as evaluation
from d2r_fast.recognition.evaluation.config import EvaluateConfig
from d2r_fast.recognition.training.augment_config import AugmentConfig
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.recognition.training.loader import Loader
from d2r_fast.recognition.training.train import describe

from .fakebench import make_bin, make_ijb, write_onnx
from .fakedata import make_image, tree
from .fakemethod import use_fake_method
from .fakesets import fake
from .translating import damage, rows, run

nvidia_dali = pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI")
NOTE = f"dali {nvidia_dali.__version__}"


@pytest.fixture(scope="module")
def dali() -> Reader:
    return open_reader("dali", device="cpu", num_threads=2)


class Mean:
    """A recogniser that sees the mean of the upper and of the lower half."""

    embedding_dim, size = 2, (112, 112)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        return crops.reshape(len(crops), 2, -1).mean(2).astype(np.float32)


def test_embed_finds_the_same(patterns: Path, tmp_path: Path, dali: Reader) -> None:
    source = open_source(damage(tmp_path / "source", patterns))
    every = tuple(image for identity in source.identities for image in identity.images)
    detect: Any = None  # all are crops already
    plain, ours = (
        Embedder(Mean(tmp_path), detect, "aligned"),  # type: ignore[arg-type]
        Embedder(Mean(tmp_path), detect, "aligned", dali),  # type: ignore[arg-type]
    )
    with ThreadPoolExecutor(3) as pool:
        wanted, found = (embed_images(every, source, embedder, pool) for embedder in (plain, ours))
    assert len(wanted[2]) == 4
    assert {problem.stage for problem in wanted[2]} == {"decode", "read"}
    assert found[0] == wanted[0]
    np.testing.assert_array_equal(found[1], wanted[1])
    assert found[2] == wanted[2]


@pytest.mark.parametrize(("reader", "note"), [("plain", {}), ("dali", {"reader": NOTE})])
def test_embeddings_say_who_read(tmp_path: Path, reader: str, note: dict[str, str]) -> None:
    from d2r_fast.engine.readers.reader import describe_reader

    network = tmp_path / "r.onnx"
    network.write_bytes(b"network")
    with EmbeddingWriter.open(tmp_path / "e.parquet", Mean(network), about=describe_reader(reader)):  # type: ignore[arg-type]
        pass
    made_by = json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"d2r_fast"])
    assert {key: value for key, value in made_by.items() if key == "reader"} == note


def test_training_batches_are_the_same(dali: Reader) -> None:
    files = [encode(make_image(0, index // 2, index % 2), "png", 95) for index in range(40)]
    files[3], files[17] = files[3][:300], b""
    files[8] = encode(make_image(0, 4, 0)[:56, :56], "jpg", 95)
    files[9] = encode(make_image(0, 4, 1)[:50], "jpg", 95)
    images = fake(*(index // 2 for index in range(40)), files=files)
    order = np.arange(40).reshape(2, 20)

    def batches(reader: Reader | None) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], Loader]:
        loader = Loader(
            images, device="cpu", channels="rgb", augment=AugmentConfig(set="adaface"), num_threads=2,
            max_unreadable=5, reader=reader,
        )  # fmt: skip
        return list(loader.epoch(order, seed=0, epoch=0)), loader

    (wanted, plain), (found, ours) = batches(None), batches(dali)
    assert plain.faults.keys() == {3, 9, 17}
    assert ours.faults == plain.faults
    assert ours.num_resized == plain.num_resized == 1
    for one, other in zip(found, wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_training_run_is_one_of_its_reader(tmp_path: Path) -> None:
    def document(reader: str) -> dict[str, Any]:
        config = TrainConfig(data=tmp_path, out=tmp_path, reader=reader)  # type: ignore[arg-type]
        return describe(config, fake(0, 0, 1, 1), arithmetic="fp32", validation=None)

    assert "reader" not in document("auto")
    assert document("dali") == document("plain") | {"reader": NOTE}


def test_translated_datasets_are_the_same_but_for_the_note(
    patterns: Path,
    shift: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_fake_method(monkeypatch)
    source = damage(tmp_path / "source", patterns)
    for reader in ("plain", "dali"):
        assert run(source, shift, tmp_path / reader, reader=reader, max_error_rate=1, num_threads=2) == 0
    assert rows(tmp_path / "dali") == rows(tmp_path / "plain")
    documents = [json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("plain", "dali")]
    assert documents[1] == documents[0] | {"reader": NOTE}
    images = [
        {name: data for name, data in tree(tmp_path / reader).items() if name.endswith((".png", ".jsonl"))}
        for reader in ("plain", "dali")
    ]
    assert images[0] == images[1]
    with pytest.raises(UserError, match="reader"):
        run(source, shift, tmp_path / "plain", reader="dali", max_error_rate=1)


def test_benchmarks_are_measured_anew_with_another_reader(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    make_bin(tmp_path / "b" / "lfw.bin", num=20, seed=0)
    make_ijb(tmp_path / "b" / "IJBB")
    write_onnx(tmp_path / "coarse.onnx")

    def evaluate(reader: str) -> dict[str, Any]:
        config = EvaluateConfig(
            network=tmp_path / "coarse.onnx", benchmarks=tmp_path / "b", out=tmp_path / "out", device="cpu",
            reader=reader,
        )  # fmt: skip
        assert evaluation.evaluate(config) == 0
        found: dict[str, Any] = json.loads((tmp_path / "out" / "results.json").read_bytes())
        return found

    plain, ours = evaluate("plain"), evaluate("dali")
    assert len(list((tmp_path / "out" / "finished").glob("*.npz"))) == 4
    assert ours["lfw"] == plain["lfw"], "these are decoded alone"
    assert ours["ijbb"]["tar_at_far"]["1e-1"] == pytest.approx(plain["ijbb"]["tar_at_far"]["1e-1"], abs=0.05)
    about = json.loads((tmp_path / "out" / "about.json").read_bytes())
    assert about["reader"] == NOTE
