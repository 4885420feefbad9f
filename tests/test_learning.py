"""Training learns: a network trained for a minute on rendered people tells other rendered people apart."""

import json
from pathlib import Path

import pytest

from d2r_fast.bench.miniature.learn import SUITE, LearnConfig, learn
from d2r_fast.bench.miniature.pairs import make_pairs
from d2r_fast.engine.errors import UserError
from d2r_fast.recognition.backbone import build_backbone
from d2r_fast.recognition.backbone_config import BackboneConfig
from d2r_fast.recognition.embedder import TorchEmbedder
from d2r_fast.recognition.evaluation.bin_file import read_bin
from d2r_fast.recognition.evaluation.pairs import pairs_of_bin, verify_pairs
from d2r_fast.recognition.network_file import LoadedNetwork

from .fakefaces import draw_patterns

MINUTE = {"identities": 60, "images": 8, "held_identities": 18, "pairs": 400, "width": 0.25, "epochs": 5,
          "batch_size": 32, "device": "cpu"}  # fmt: skip


def untrained(benchmark: Path) -> float:
    """Accuracy of the same network before its first step."""
    config = BackboneConfig(name="ir_18", width=MINUTE["width"])
    embedder = TorchEmbedder(LoadedNetwork(build_backbone(config, seed=0), config, "untrained"), device="cpu")
    pairs = pairs_of_bin(read_bin(benchmark), source=str(benchmark))
    accuracy = verify_pairs(pairs, embedder, suite=SUITE).accuracy
    assert accuracy is not None
    return accuracy


def test_a_minute_of_training_beats_chance_on_people_never_seen(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "learnt"
    found = learn(LearnConfig(facekit=shared / "ict-facekit", out=out, **MINUTE))
    result = found["result"]
    assert result["accuracy"] > 0.60
    assert result["accuracy"] > untrained(out / "benchmarks" / f"{SUITE}.bin") + 0.05
    assert (result["num_genuine"], result["num_impostor"]) == (200, 200)
    written = json.loads((out / "evaluation" / "results.json").read_text())
    assert written[SUITE]["accuracy"] == result["accuracy"]


@pytest.mark.slow
def test_twenty_minutes_reach_85_percent(shared: Path, tmp_path: Path) -> None:
    """Half of IR-18 on 250 people, on two processors; a busy or slower machine may take longer."""
    found = learn(LearnConfig(facekit=shared / "ict-facekit", out=tmp_path / "learnt"))
    assert found["result"]["accuracy"] >= 0.85
    assert sum(found["seconds"].values()) < 1200


def test_pairs_are_what_they_say(tmp_path: Path) -> None:
    draw_patterns(tmp_path / "people", num_identities=5, images_per_identity=5)
    make_pairs(tmp_path / "people", tmp_path / "pairs.bin", num_pairs=40, seed=0)
    pairs = read_bin(tmp_path / "pairs.bin")
    owner = {path.read_bytes(): path.parent.name for path in (tmp_path / "people").rglob("*.png")}
    couples = list(zip(pairs.images[0::2], pairs.images[1::2], strict=True))
    assert [owner[one] == owner[two] for one, two in couples] == pairs.same.tolist()
    assert all(one != two for one, two in couples)
    assert len({frozenset(couple) for couple in couples}) == 40
    assert pairs.same.sum() == 20
    assert all(pairs.same[start : start + 4].sum() == 2 for start in range(0, 40, 4)), "a fold is unbalanced"
    with pytest.raises(UserError, match="has 50 pairs of one identity: for 600 pairs, give it as many"):
        make_pairs(tmp_path / "people", tmp_path / "pairs.bin", num_pairs=600, seed=0)
