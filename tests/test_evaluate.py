"""The evaluate command on small benchmarks: networks of every kind, resuming, seeds, and what can be wrong."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import write_atomic
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.evaluation import evaluate as module
from d2r_fast.recognition.evaluation.bin_file import read_bin, write_bin
from d2r_fast.recognition.evaluation.config import EvaluateConfig
from d2r_fast.recognition.evaluation.finished import hold, load_result, save_result
from d2r_fast.recognition.evaluation.fusion import parse_fusion
from d2r_fast.recognition.evaluation.pairs import pairs_of_bin
from d2r_fast.recognition.evaluation.results import by_run, encode_results, to_json
from d2r_fast.recognition.evaluation.suites import Settings, find_suites
from d2r_fast.recognition.network_file import save_network

from .fakebench import (
    CoarsePixels,
    encode,
    face,
    keep_weights_beside,
    make_bin,
    make_ijb,
    make_rfw,
    pair_list,
    write_onnx,
)

SETTINGS = Settings(flip=True, fusion=parse_fusion("adaface"), batch_size=8, max_unreadable=0)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for seed, name in enumerate(("lfw", "cfp_fp", "heldout")):
        make_bin(folder / f"{name}.bin", num=20 + seed, seed=seed)
    make_ijb(folder / "IJBB")
    make_rfw(folder / "RFW" / "test")
    return folder


@pytest.fixture
def network(tmp_path: Path) -> Path:
    write_onnx(tmp_path / "coarse.onnx")
    return tmp_path / "coarse.onnx"


def evaluate(network: Path, **given: Any) -> int:
    return module.evaluate(EvaluateConfig(network=network, **given))


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_bytes())
    return found


def test_reading_leaves_torch_its_threads(benchmarks: Path) -> None:
    before = torch.get_num_threads()
    (suite,) = find_suites(benchmarks, ["ijbb"])
    suite.measure(CoarsePixels(), SETTINGS)
    assert torch.get_num_threads() == before


def test_files_that_are_missing_are_found_before_anything_is_embedded(tmp_path: Path) -> None:
    make_ijb(tmp_path / "IJBB")
    (suite,) = find_suites(tmp_path, ["ijbb"])
    lost = sorted((tmp_path / "IJBB" / "loose_crop").iterdir())[-1]
    lost.unlink()
    network = CoarsePixels()
    with pytest.raises(UserError, match=rf"ijbb: 1 of \d+ images cannot be used .*{lost.name}: No such file"):
        suite.measure(network, replace(SETTINGS, batch_size=1))
    assert network.num_crops == 0
    assert suite.measure(network, replace(SETTINGS, max_unreadable=1)).num_unreadable == 1


def test_every_suite_of_a_folder(benchmarks: Path, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert evaluate(network, benchmarks=benchmarks, out=out, device="cpu", ijb_fusion="adaface") == 0
    found = results(out)
    assert {"lfw", "cfp_fp", "ijbb", "rfw", "heldout"} <= set(found)
    for suite in ("lfw", "cfp_fp", "heldout"):
        assert len(found[suite]["folds"]) == len(found[suite]["thresholds"]) == 10
        assert found[suite]["accuracy"] == pytest.approx(np.mean(found[suite]["folds"]))
        assert found[suite]["accuracy"] > 0.7
    assert found["ijbb"]["fusion"] == "F1N1D0"
    assert found["ijbb"]["tar_at_far"]["1e-6"] is None
    assert set(found["rfw"]["races"]) == {"African", "Asian", "Caucasian", "Indian"}
    for name in ("table.md", "table.tex", "page.html", "roc.png", "roc.svg"):
        assert (out / name).stat().st_size > 200, name


def test_suites_in_the_order_of_reports(benchmarks: Path) -> None:
    assert [suite.name for suite in find_suites(benchmarks)] == ["lfw", "cfp_fp", "ijbb", "rfw", "heldout"]
    assert [suite.name for suite in find_suites(benchmarks, ["rfw", "lfw"])] == ["rfw", "lfw"]


def test_torch_network(benchmarks: Path, tmp_path: Path) -> None:
    config = BackboneConfig(name="ir_18", width=0.125, embedding_dim=32)
    (tmp_path / "run").mkdir()
    save_network(tmp_path / "run", build_backbone(config, seed=0), config, about={})
    evaluate(
        tmp_path / "run",
        benchmarks=benchmarks,
        suite="lfw",
        out=tmp_path / "out",
        device="cpu",
        batch_size=16,
    )
    assert results(tmp_path / "out")["lfw"]["num_genuine"] == 10


class Counting:
    """Counts the crops that are embedded, and has results.json alone written: pages take a second each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.network = CoarsePixels()
        monkeypatch.setattr(module, "open_embedder", lambda path, **settings: self.network)
        monkeypatch.setattr(module, "write_results", self._write)

    @staticmethod
    def _write(out: Path, found: Any, *, about: dict[str, Any]) -> None:
        write_atomic(out / "results.json", to_json(encode_results(by_run(found))))

    def since(self) -> int:
        number, self.network.num_crops = self.network.num_crops, 0
        return number


def test_finished_suites_are_not_run_again(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counting, out = Counting(monkeypatch), tmp_path / "out"
    evaluate(tmp_path, benchmarks=benchmarks, suite="lfw,ijbb,rfw", out=out)
    assert counting.since() > 0
    first = results(out)
    capsys.readouterr()
    evaluate(tmp_path, benchmarks=benchmarks, suite="lfw,ijbb,rfw", out=out)
    assert counting.since() == 0
    assert capsys.readouterr().err.count("finished earlier") == 3
    assert results(out) == first
    evaluate(tmp_path, benchmarks=benchmarks, suite="lfw,cfp_fp", out=out)
    assert counting.since() == 2 * len(pairs_of_bin(read_bin(benchmarks / "cfp_fp.bin"), source="").crops)


def test_settings_that_matter_are_measured_again(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, out = Counting(monkeypatch), tmp_path / "out"
    run = {"benchmarks": benchmarks, "out": out, "suite": "lfw,ijbb"}
    evaluate(tmp_path, **run)
    both = counting.since()
    first = results(out)["ijbb"]
    evaluate(tmp_path, **run, ijb_fusion="adaface")
    assert counting.since() == 0, "norm and detector score weigh the same embeddings"
    second = results(out)["ijbb"]
    assert (first["fusion"], second["fusion"]) == ("F1N1D1", "F1N1D0")
    assert first["fusions"]["F1N1D0"]["tar_at_far"] == second["tar_at_far"]
    assert second["fusions"].keys() == {"F1N1D1", "F1N0D1", "F1N0D0"}
    evaluate(tmp_path, **run, ijb_fusion="F0N1D1")
    assert 0 < counting.since() < both, "fusion decides IJB alone"
    evaluate(tmp_path, **run, batch_size=7)
    assert counting.since() == 0, "batches decide nothing"
    evaluate(tmp_path, **run, no_flip=True)
    pairs = pairs_of_bin(read_bin(benchmarks / "lfw.bin"), source="")
    assert counting.since() == len(pairs.crops), "of IJB templates the fusion says whether there are flips"


def test_a_changed_benchmark_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting, out = Counting(monkeypatch), tmp_path / "out"
    make_bin(tmp_path / "lfw.bin", num=20)
    evaluate(tmp_path, benchmarks=tmp_path, out=out)
    assert counting.since() > 0
    make_bin(tmp_path / "lfw.bin", num=21)
    evaluate(tmp_path, benchmarks=tmp_path, out=out)
    assert counting.since() > 0
    assert results(out)["lfw"]["num_impostor"] == 11


@pytest.mark.parametrize("kind", ["ijbb", "rfw"])
def test_changed_photographs_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    counting, out = Counting(monkeypatch), tmp_path / "out"
    make_ijb(tmp_path / "IJBB")
    make_rfw(tmp_path / "RFW" / "test")
    image = min(path for path in tmp_path.rglob("*.jpg") if kind.upper() in path.parts)
    whole = image.read_bytes()
    image.write_bytes(b"broken")
    evaluate(tmp_path, benchmarks=tmp_path, out=out, max_unreadable=1)
    counting.since()
    evaluate(tmp_path, benchmarks=tmp_path, out=out, max_unreadable=1)
    assert counting.since() == 0
    assert results(out)[kind]["num_unreadable"] == 1
    image.write_bytes(whole)
    evaluate(tmp_path, benchmarks=tmp_path, out=out, max_unreadable=1)
    assert counting.since() > 0
    assert results(out)[kind]["num_unreadable"] == 0
    (image.parent / "loose").symlink_to("nothing")
    os.utime(image, ns=(0, 0))
    evaluate(tmp_path, benchmarks=tmp_path, out=out, suite=kind)
    assert counting.since() > 0, "of another time"


def test_a_folder_of_images_is_missing(tmp_path: Path, network: Path) -> None:
    make_ijb(tmp_path / "IJBB")
    shutil.rmtree(tmp_path / "IJBB" / "loose_crop")
    with pytest.raises(UserError, match="loose_crop cannot be read"):
        evaluate(network, benchmarks=tmp_path, out=tmp_path / "out", device="cpu")


def test_a_stopped_run_goes_on(benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting, out = Counting(monkeypatch), tmp_path / "out"
    shots, same = pair_list(20)
    broken = tmp_path / "benchmarks"
    broken.mkdir()
    (broken / "lfw.bin").write_bytes((benchmarks / "lfw.bin").read_bytes())
    write_bin(broken / "cfp_fp.bin", [b"?"] + [encode(face(*shot)) for shot in shots[1:]], same)
    with pytest.raises(UserError, match="cfp_fp: 1 of"):
        evaluate(tmp_path, benchmarks=broken, out=out)
    assert not (out / "results.json").exists()
    counting.since()
    evaluate(tmp_path, benchmarks=broken, out=out, max_unreadable=1)
    assert 0 < counting.since() <= 2 * len(set(shots)), "lfw is not run again"
    assert results(out)["cfp_fp"]["num_unreadable"] == 1
    with pytest.raises(UserError, match="cfp_fp: 1 of"):
        evaluate(tmp_path, benchmarks=broken, out=out, max_unreadable=0)


def test_a_finished_result_comes_back_whole(benchmarks: Path, tmp_path: Path) -> None:
    for suite in find_suites(benchmarks, ["rfw", "lfw"]):
        result = suite.measure(CoarsePixels(), SETTINGS)
        save_result(tmp_path / "a.npz", result)
        found = load_result(tmp_path / "a.npz", suite.name)
        assert found == result
        assert found is not None
        assert found.seconds == result.seconds
        for one, other in (
            (found, result),
            *((found.races[race], result.races[race]) for race in result.races),
        ):
            assert (one.roc is None) == (other.roc is None)
            if one.roc is not None and other.roc is not None:
                np.testing.assert_array_equal(one.roc.thresholds, other.roc.thresholds)
                np.testing.assert_array_equal(one.roc.tar, other.roc.tar)
                assert one.roc.num_impostor == other.roc.num_impostor


def test_a_damaged_finished_result_is_measured_again(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counting, out = Counting(monkeypatch), tmp_path / "out"
    evaluate(tmp_path, benchmarks=benchmarks, out=out, suite="lfw")
    before, first = counting.since(), results(out)
    (path,) = (out / "finished").glob("lfw.*.npz")
    path.write_bytes(path.read_bytes()[:200])
    evaluate(tmp_path, benchmarks=benchmarks, out=out, suite="lfw")
    assert counting.since() == before
    assert "is damaged" in capsys.readouterr().err
    assert results(out) == first


def test_seeds(benchmarks: Path, tmp_path: Path) -> None:
    for seed in (10, 2):
        folder = tmp_path / "run" / f"seed-{seed}"
        folder.mkdir(parents=True)
        config = BackboneConfig(name="ir_18", width=0.125, embedding_dim=16)
        save_network(folder, build_backbone(config, seed=seed), config, about={})
    evaluate(
        tmp_path / "run",
        benchmarks=benchmarks,
        out=tmp_path / "out",
        suite="lfw",
        device="cpu",
        batch_size=16,
    )
    found = results(tmp_path / "out")
    assert list(found["runs"]) == ["seed-2", "seed-10"]
    accuracies = [found["runs"][run]["lfw"]["accuracy"] for run in found["runs"]]
    assert found["mean"]["lfw"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["std"]["lfw"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))


def test_results_of_another_network_stay(benchmarks: Path, tmp_path: Path, network: Path) -> None:
    out = tmp_path / "out"
    evaluate(network, benchmarks=benchmarks, out=out, suite="lfw", device="cpu")
    before = results(out)
    write_onnx(network, seed=1)
    with pytest.raises(UserError, match=r"results of other networks \(coarse\.onnx"):
        evaluate(network, benchmarks=benchmarks, out=out, suite="lfw", device="cpu")
    assert results(out) == before


def test_a_sidecar_is_part_of_a_network(benchmarks: Path, tmp_path: Path, network: Path) -> None:
    out = tmp_path / "out"
    evaluate(network, benchmarks=benchmarks, out=out, suite="lfw", device="cpu")
    network.with_suffix(".json").write_text(
        '{"channels": "bgr", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}'
    )
    with pytest.raises(UserError, match="results of other networks"):
        evaluate(network, benchmarks=benchmarks, out=out, suite="lfw", device="cpu")


def test_weights_beside_a_graph_are_part_of_a_network(
    benchmarks: Path, tmp_path: Path, network: Path
) -> None:
    keep_weights_beside(network)
    evaluate(network, benchmarks=benchmarks, out=tmp_path / "out", suite="lfw", device="cpu")
    graph = network.read_bytes()
    weights = network.with_name("weights.bin")
    weights.write_bytes((-(np.frombuffer(weights.read_bytes(), np.float32) ** 2)).tobytes())
    assert network.read_bytes() == graph
    with pytest.raises(UserError, match="results of other networks"):
        evaluate(network, benchmarks=benchmarks, out=tmp_path / "out", suite="lfw", device="cpu")


def test_another_run_is_at_work(benchmarks: Path, network: Path, tmp_path: Path) -> None:
    with hold(tmp_path / "out"), pytest.raises(RunError, match="is in use by process"):
        evaluate(network, benchmarks=benchmarks, out=tmp_path / "out", suite="lfw", device="cpu")
    evaluate(network, benchmarks=benchmarks, out=tmp_path / "out", suite="lfw", device="cpu")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("mine")
    with (
        pytest.raises(UserError, match=r"holds results\.json and no finished, so it is no evaluation"),
        hold(tmp_path / "out"),
    ):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]


def test_what_is_not_there(benchmarks: Path, network: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no calfw, ijbc \(looked for calfw\.bin; IJBC/meta or ijbc/meta\).*lfw, cfp_fp"
    ):
        evaluate(network, benchmarks=benchmarks, out=tmp_path / "out", suite="lfw,calfw,ijbc")
    with pytest.raises(UserError, match="is no folder"):
        evaluate(network, benchmarks=tmp_path / "none", out=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no benchmark"):
        evaluate(network, benchmarks=tmp_path / "empty", out=tmp_path / "out")
    with pytest.raises(UserError, match=r"none\.onnx is missing: give a run folder, an ONNX recogniser or a"):
        evaluate(tmp_path / "none.onnx", benchmarks=benchmarks, out=tmp_path / "out", device="cpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file or lies in one"):
        evaluate(network, benchmarks=benchmarks, out=tmp_path / "file", device="cpu")


def test_a_network_for_other_crops(benchmarks: Path, tmp_path: Path) -> None:
    write_onnx(tmp_path / "large.onnx", size=128)
    with pytest.raises(UserError, match="takes crops of 128x128"):
        evaluate(tmp_path / "large.onnx", benchmarks=benchmarks, out=tmp_path / "out", device="cpu")


def test_settings_are_checked_at_once(tmp_path: Path) -> None:
    given = {"network": tmp_path, "benchmarks": tmp_path, "out": tmp_path}
    assert EvaluateConfig(**given, suite="lfw, ijbc", ijb_fusion="F0N1D1").suite == "lfw, ijbc"
    for wrong in ({"ijb_fusion": "F2"}, {"suite": "lfw,lfw"}, {"suite": "lfw,"}, {"max_unreadable": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            EvaluateConfig(**given, **wrong)
