"""How the miniature's generator is measured, by generators whose quality is known."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2r_fast.bench.miniature.domains import draw
from d2r_fast.bench.miniature.generator.pictures import Pixels
from d2r_fast.bench.miniature.generator.quality import Embeddings, Trial, compare, main, measure
from d2r_fast.bench.miniature.generator.recipe import DEVELOPMENT
from d2r_fast.bench.miniature.head import Head
from d2r_fast.engine.mtcnn import MTCNN
from d2r_fast.engine.recogniser import Recogniser

PEOPLE = 6


class Means:
    """A generator's condition: what it is given."""

    def condition(self, embeddings: Embeddings) -> torch.Tensor:
        return torch.from_numpy(embeddings)


@dataclass(frozen=True)
class Perfect(Trial):
    """Draws a snapshot of the person who is nearest to an embedding, and keeps the offsets that it was given."""

    offsets: list[torch.Tensor] = field(default_factory=list)

    def pictures(self, embeddings: Embeddings, *, offset: torch.Tensor | None = None) -> Pixels:
        if offset is not None:
            self.offsets.append(offset)
        known = self.embed(self.shots("snapshots", range(PEOPLE), 0))
        people = (embeddings @ known.T).argmax(1)
        wanted = [(DEVELOPMENT + int(person), 2) for person in people]
        return draw("snapshots", self.head, wanted, seed=0, side=128, framing="portrait").numpy()


def test_a_generator_that_draws_the_right_people_is_good(head: Head, shared: Path) -> None:
    recogniser = Recogniser.load(shared / "weights" / "foamliu_MobileFaceNet.onnx")
    trial: Any = Perfect(head, Means(), recogniser, MTCNN(), 0, 1, 1.0)  # type: ignore[arg-type]
    found = measure(trial, num_people=PEOPLE)
    assert found["found"] == 1
    assert found["drawn"]["apart"] > 0.2
    assert found["slerp"]["leaning"][0] < -0.2
    assert found["slerp"]["leaning"][-1] > 0.2
    assert found["offset"]["distance"]["with"] < found["offset"]["distance"]["renders"]
    learnt = range(PEOPLE // 2)
    photographed, rendered = (trial.embed(trial.shots(name, learnt, 0)) for name in ("snapshots", "studio"))
    (offset,) = trial.offsets
    assert offset.numpy() == pytest.approx(photographed.mean(0) - rendered.mean(0), abs=1e-6)


def test_cosines_are_compared_by_who_they_are_of() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert compare(rows, rows) == {"genuine": 1.0, "impostor": 0.0, "apart": 1.0}
    turned = compare(np.roll(rows, 1, axis=0), rows)
    assert turned["genuine"] == 0
    assert turned["impostor"] == pytest.approx(0.5)


def test_pictures_without_faces_are_said(
    facekit: Path, mini_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(facekit), str(mini_models), "--people", "4", "--steps", "1"])
    assert status != 0
    assert "holds a face" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--people 0", "people = 0: give at least 4: the offset is made of half of the people"),
        ("--people 3", "people = 3: give at least 4"),
        ("--people -1", "people = -1: give at least 4"),
        ("--steps 0", "steps = 0: input should be greater than or equal to 1"),
        ("--guidance -0.5", "guidance = -0.5: input should be greater than or equal to 0"),
        ("--guidance nan", "guidance = nan"),
        ("--seed -1", "seed = -1"),
    ],
)
def test_numbers_that_nothing_can_be_measured_by_are_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main([str(tmp_path / "no-head"), str(tmp_path / "no-models"), *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"quality: {message}")
