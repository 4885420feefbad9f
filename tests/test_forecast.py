"""`d2r-fast plan`: what it counts is exact, what it times is this machine's, and it writes nothing."""

from pathlib import Path
from typing import Any

import pytest

from d2r_fast.engine import forecast, pipeline
from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.errors import UserError

from .test_pipeline import QUICK


def configure(source: Path, models: Path, out: Path, **changes: Any) -> GenerateConfig:
    return GenerateConfig(
        **QUICK | {"source": source, "models": models, "out": out, "batch_size": 3} | changes
    )


def test_it_says_what_a_run_takes_and_writes_nothing(
    renders: Path, mini_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(renders, mini_models, tmp_path / "out", steps=5, guidance_interval=(0.2, 0.6))
    assert forecast.run_plan(config, seconds=0.01) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["images"] == "24 of 4 identities, 168 UNet rows"  # 24 x (5 + 2)
    assert lines["time"].endswith("images/s")
    assert not (tmp_path / "out").exists()


def test_stages_add_up_on_a_cpu(
    renders: Path, mini_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 2 s for whatever is timed: a batch of 3 rows, a batch of 8 images finished, an identity met."""

    def timed(work: Any, device: str) -> float:
        work()
        return 2.0

    monkeypatch.setattr(forecast, "_timed", timed)
    table = tmp_path / "steps.csv"
    table.write_text("identity,steps\n1,7\n")
    config = configure(renders, mini_models, tmp_path / "out", steps=2, identity_steps=table)
    source, members = pipeline.prepare(config)
    with pipeline.ThreadPoolExecutor() as pool:
        stages = pipeline.open_stages(config, source, "cpu", pool)
        found = forecast.forecast(config, stages, members, seconds=100)
    num_rows = 6 * (3 * 2 + 7) * 2  # three identities of 2 steps, one of 7, all guided
    assert (found.num_images, found.num_rows) == (24, num_rows)
    assert found.row_s == pytest.approx(2 / 3)
    assert found.total_s == pytest.approx(num_rows * 2 / 3 + 24 * 2 / 8 + 4 * 2.0)
    assert found.disk_bytes > 24 * 1000


def test_a_source_without_a_usable_identity_is_refused(
    renders: Path, mini_models: Path, tmp_path: Path
) -> None:
    config = configure(renders, mini_models, tmp_path / "out", source_images_per_identity=7)
    with pytest.raises(UserError, match=r"no identity of .* can be used"):
        forecast.run_plan(config, seconds=0.01)
