"""The readers' benchmark: whom it compares on what, and that it compares no unequal work."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2r_fast.bench import readers_section
from d2r_fast.bench.ceiling import Rates
from d2r_fast.bench.config import BenchConfig
from d2r_fast.bench.context import Bench
from d2r_fast.bench.measure import Budget, interleave
from d2r_fast.bench.readers_section import check_same, loops, make_files, measure, read_part
from d2r_fast.bench.record import Found
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.readers.plain import PlainReader
from d2r_fast.engine.readers.reader import Reader

SCENES = np.stack([
    np.asarray(Image.fromarray(colours).resize((512, 512), Image.Resampling.BICUBIC))
    for colours in np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), np.uint8)
])  # fmt: skip
KINDS = ("112 px PNG", "512 px JPEG, aligned")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Of eight files, read once, and a recogniser that is told to take 10 ms."""
    monkeypatch.setattr(readers_section, "NUM_FILES", 8)
    monkeypatch.setattr(readers_section, "NUM_ROUNDS", 1)
    monkeypatch.setattr(readers_section, "draw_images", lambda: torch.from_numpy(SCENES))
    monkeypatch.setattr(readers_section, "WINDOW_S", 0.0)
    monkeypatch.setattr(readers_section, "time_recogniser", lambda bench, found: 0.01)
    found = Bench(BenchConfig(), "cpu", tmp_path, tmp_path, Rates({"fp32": 1e11}, 1e10), Budget(300), {})
    found.__dict__["size"] = "full"
    return found


def test_without_dali_the_others_are_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str, **_: object) -> Reader:
        raise UserError("reader dali: not there")

    monkeypatch.setattr(readers_section, "open_reader", refuse)
    found = Found()
    measure(bench, found)
    assert "DALI is left out: reader dali: not there" in capsys.readouterr().err
    assert [row["name"] for row in found.rows] == [
        f"{kind}: {name}"
        for kind in KINDS
        for name in ("plain, 1 thread", "plain, 2 threads", "OpenCV, 1 thread", "Pillow, 1 thread")
    ]
    assert [(each["name"], each["target"]) for each in found.findings] == [
        (f"{kind}: plain reader over the recogniser", 1.0) for kind in KINDS
    ]
    rate = next(row["per_s"] for row in found.rows if row["name"] == f"{KINDS[0]}: plain, 2 threads")
    assert found.findings[0]["value"] == pytest.approx(0.01 * rate, rel=1e-3)


def test_dali_is_compared_with_the_plain_reader(bench: Bench) -> None:
    pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI")
    found = Found()
    measure(bench, found)
    assert [each["name"] for each in found.findings if "DALI" in each["name"]] == [
        f"{kind}: DALI over plain, {threads}" for kind in KINDS for threads in ("1 thread", "2 threads")
    ]


def test_every_loop_does_the_same_work(bench: Bench) -> None:
    for files in make_files():
        wanted = np.stack([np.asarray(image) for image in read_part(PlainReader(), files, range(8))])
        for name, loop in loops().items():
            away = np.abs(np.stack(loop(files)).astype(int) - wanted)
            # Pillow has hard borders, and interpolates in fixed point.
            assert (away > (1 if name.startswith("OpenCV") else 2)).mean() < (
                0 if name.startswith("OpenCV") else 0.01
            ) + 1e-9, name
        assert wanted.shape == (8, 112, 112, 3)


def test_other_pixels_are_not_compared(bench: Bench) -> None:
    files, _ = make_files()
    wrong = [
        image ^ 4 for image in read_part(PlainReader(), files, range(8)) if isinstance(image, np.ndarray)
    ]
    with pytest.raises(RunError, match="differ by 4 levels, allowed 1"):
        check_same(wrong, files)


def test_the_recogniser_is_timed_by_the_crop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Slow:
        size = (112, 112)

        def __call__(self, crops: np.ndarray) -> np.ndarray:
            assert crops.shape == (readers_section.EMBED_AT_ONCE, 112, 112, 3)
            return crops

    ticks = iter(range(100))
    monkeypatch.setattr(readers_section, "open_recogniser", lambda *args, **options: Slow())
    monkeypatch.setattr(
        readers_section, "interleave",
        lambda arms, **options: interleave(arms, num_rounds=3, clock=lambda: float(next(ticks))),
    )  # fmt: skip
    bench = Bench(BenchConfig(), "cpu", tmp_path, tmp_path, Rates({}, 1.0), Budget(300), {})
    assert readers_section.time_recogniser(bench, Found()) == pytest.approx(1 / 16)
