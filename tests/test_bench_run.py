"""A run of the benchmark: ceilings first, every section recorded, one line of JSON last."""

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from d2r_fast.bench import run
from d2r_fast.bench.ceiling import Rates
from d2r_fast.bench.config import SECTIONS, BenchConfig
from d2r_fast.bench.context import Bench
from d2r_fast.bench.measure import NoTime, Ratio
from d2r_fast.bench.record import Found
from d2r_fast.bench.run import run_bench
from d2r_fast.bench.table import read_documents
from d2r_fast.bench.targets import TARGETS
from d2r_fast.engine.errors import UserError

Measure = Any
Json = dict[str, Any]
RESULTS = Path(__file__).resolve().parents[1] / "bench" / "results"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, Measure]:
    """Sections that a test puts here take the place of the real ones."""
    sections: dict[str, Measure] = {}
    monkeypatch.setattr(run, "measure_rates", lambda device: Rates({"fp32": 1e11}, 1e10))
    monkeypatch.setattr(
        run,
        "import_module",
        lambda name: SimpleNamespace(measure=sections[name.split(".")[-1][: -len("_section")]]),
    )
    return sections


def measure(bench: Bench, found: Found) -> None:
    found.row("unet somehow, 2 rows", network="unet", backend="torch", precision="fp32", batch_size=2, per_s=4.0,
              eager_s=1.0, median_s=0.5, p10_s=0.4, p90_s=0.6, of_ceiling=0.5)  # fmt: skip
    found.ratio("unet over torch fp32 eager", Ratio(2.0, 1.9, 2.1), target=2.8)


def test_ceilings_come_first_and_json_last(
    mini_models: Path, fake: dict[str, Measure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake["networks"] = measure
    assert run_bench(["networks"], BenchConfig(models=mini_models, save=tmp_path, device="cpu")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ceilings, measured on cpu:"
    assert "0.1 TFLOP/s" in lines[1]
    assert any("unet somehow, 2 rows: 0.5 s (0.4 to 0.6), 4/s, 50% of the ceiling" in line for line in lines)
    assert any("2x (1.9 to 2.1), wanted 2.8: short" in line for line in lines)
    document = json.loads(lines[-1])
    (saved,) = tmp_path.glob("*.json")
    assert json.loads(saved.read_text()) == document
    assert saved.with_suffix(".png").is_file()
    section = document["sections"]["networks"]
    assert section["ceilings"]["work"]["unet"]["tflop"] == pytest.approx(2.457e-4, rel=1e-3)
    assert section["settings"]["height"] == section["settings"]["width"] == 128
    assert section["settings"]["models"] == mini_models.name
    assert str(mini_models.parent) not in saved.read_text(), "where folders lie is nobody's business"
    assert str(tmp_path.parent) not in saved.read_text()
    assert section["versions"]["torch"]
    assert section["card"] is None
    assert document["machine"]["num_cores"] >= 1


def test_what_fails_is_recorded_and_the_rest_goes_on(
    mini_models: Path, fake: dict[str, Measure], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(bench: Bench, found: Found) -> None:
        raise UserError("no such card")

    def fall_over(bench: Bench, found: Found) -> None:
        found.row("before", reason="as far as it came")
        raise ZeroDivisionError("a bug")

    fake |= {"detector": refuse, "paths": fall_over, "scheduler": measure}
    assert run_bench(["detector", "paths", "scheduler"], BenchConfig(models=mini_models, device="cpu")) == 1
    printed = capsys.readouterr()
    sections = json.loads(printed.out.splitlines()[-1])["sections"]
    assert [section["status"] for section in sections.values()] == ["failed", "failed", "done"]
    assert sections["detector"]["reason"] == "no such card"
    assert "ZeroDivisionError: a bug" in sections["paths"]["reason"]
    assert "fall_over" in printed.err, "a bug keeps its traceback"
    assert sections["paths"]["rows"] == [{"name": "before", "reason": "as far as it came"}]


def test_what_comes_too_late_is_skipped(
    mini_models: Path,
    fake: dict[str, Measure],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(run, "Budget", lambda total_s: real_budget(total_s, lambda: now_s[0]))

    def slow(bench: Bench, found: Found) -> None:
        now_s[0] += 100

    fake["networks"] = slow
    assert (
        run_bench(["networks", "pipeline"], BenchConfig(models=mini_models, device="cpu", budget_s=50)) == 0
    )
    sections = json.loads(capsys.readouterr().out.splitlines()[-1])["sections"]
    assert sections["networks"]["status"] == "done"
    assert sections["pipeline"] == {"status": "skipped", "reason": "the time was up"}


def test_what_takes_longer_than_there_is_time_is_skipped_and_says_how_long(
    mini_models: Path, fake: dict[str, Measure], capsys: pytest.CaptureFixture[str]
) -> None:
    def long(bench: Bench, found: Found) -> None:
        raise NoTime("the shortest list takes 900 s")

    fake["scheduler"] = long
    assert run_bench(["scheduler"], BenchConfig(models=mini_models, device="cpu")) == 0
    section = json.loads(capsys.readouterr().out.splitlines()[-1])["sections"]["scheduler"]
    assert (section["status"], section["reason"]) == ("skipped", "the shortest list takes 900 s")


real_budget = run.Budget


def test_the_fastest_unet_of_this_run_draws_the_rest(
    mini_models: Path, fake: dict[str, Measure], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    fake |= {
        "networks": measure,
        "paths": lambda bench, found: seen.append((bench.best_unet, bench.fastest_batch, bench.sides)),
    }
    config = BenchConfig(models=mini_models, device="cpu", height=64, width=96)
    assert run_bench(["networks", "paths"], config) == 0
    assert seen == [(("torch", "fp32"), 2, (64, 96))]


def test_every_section_has_its_module() -> None:
    folder = Path(run.__file__).parent
    for name in SECTIONS:
        assert (folder / f"{name}_section.py").is_file()
        assert name in run.WEIGHTS


def judged_of(section: Json) -> dict[str, float]:
    """Figures of a section that have a target, and their targets."""
    return {found["name"]: found["target"] for found in section["findings"] if found["target"] is not None}


def all_of(parts: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    return chain.from_iterable(figures.items() for figures in parts.values())


@pytest.mark.parametrize("size", ["mini", "full"])
def test_what_was_asked_for_was_measured(size: str) -> None:
    """A saved document judges every figure that was asked for on a CPU, by its name; others, of some sections, judge
    no other figures and by no other target."""
    documents = [d for d in read_documents(RESULTS) if d["size"] == size and d["machine"]["gpu"] is None]
    assert '"/' not in json.dumps(documents), "a path of the machine"
    wanted = {name: values["cpu", size] for name, values in TARGETS.items() if ("cpu", size) in values}
    judged = [{name: judged_of(part) for name, part in d["sections"].items()} for d in documents]
    whole = [parts for parts in judged if dict(all_of(parts)) == wanted]
    assert whole
    for parts in judged:
        for name, figures in parts.items():
            assert figures == whole[0][name], name


@pytest.mark.slow
def test_dry_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The GPU script on a CPU with mini networks: every section runs, within minutes."""
    assert run_bench(SECTIONS, BenchConfig(save=tmp_path, budget_s=180, device="cpu")) == 0
    sections = json.loads(capfd.readouterr().out.splitlines()[-1])["sections"]
    assert {name: section["status"] for name, section in sections.items()} == dict.fromkeys(SECTIONS, "done")
    assert all(section["findings"] or section["rows"] for section in sections.values())
