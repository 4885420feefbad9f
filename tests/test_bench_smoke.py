"""The smoke run for machines with a card: its dry run on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2r_fast.bench import smoke
from d2r_fast.engine.errors import RunError


def test_the_dry_run_is_fine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that needs no card: torch, onnxruntime and openvino draw the same, and a bench without time skips."""
    # Without inductor, whose compiler takes minutes: test_backends has it with --slow alone.
    monkeypatch.setattr(smoke, "BACKENDS", ("openvino", "torch", "tensorrt", "onnxruntime"))
    monkeypatch.setattr(smoke, "run_tests", lambda: (True, "not from inside a test"))
    assert smoke.run_smoke("cpu", size="mini", budget_s=1, save=tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    for backend in ("openvino", "torch", "onnxruntime"):
        told = [line for line in lines if line.startswith(f"fine: {backend} in float32")]
        assert len(told) == 2, "as it is seen, and in the end"
        assert "the same alone" in told[0]
    assert any(line.startswith("fine: tensorrt: left out") for line in lines)
    assert "fine: bench all: exit status 0" in lines
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_what_breaks_is_told_and_costs_nothing_else() -> None:
    def broken() -> Any:
        raise RunError("the card is on fire\nat once")

    assert smoke.attempt("a", broken) == smoke.Look("a", False, "RunError: the card is on fire")


@pytest.mark.parametrize(("change", "fine"), [("none", True), ("image", False), ("neighbour", False)])
def test_other_images_are_wrong(change: str, fine: bool) -> None:
    """An image far from the one wanted, or one that depends on its neighbours, is told."""
    random = np.random.default_rng(0)
    wanted = {name: random.integers(0, 256, (4, 4, 3), np.uint8) for name in ("a/0.png", "b/0.png")}

    class Studio:
        device = "cpu"

        def draw(self, name: str, **settings: Any) -> smoke.Images:
            images = dict(wanted)
            if change == "image":
                images["b/0.png"] = images["a/0.png"]
            if settings.get("identities") == 1:
                images = {"a/0.png": images["a/0.png"] ^ (change == "neighbour")}
            return images

    def embed(crops: np.ndarray) -> np.ndarray:
        return crops.reshape(len(crops), -1).astype(np.float32) - 127

    studio: Any = Studio()
    recogniser: Any = embed
    assert smoke.compare(studio, "torch", "float32", wanted, recogniser)[0] is fine
