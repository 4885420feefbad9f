"""The document of a run: whole, finite, kept across runs, and what its pictures and lines show."""

import json
from pathlib import Path
from typing import Any

import pytest

from d2r_fast.bench.measure import Ratio
from d2r_fast.bench.plots import draw_plots
from d2r_fast.bench.record import Found, Record, dump, read_record, slug
from d2r_fast.engine.errors import UserError

MACHINE: dict[str, Any] = {
    "cpu": "Some(R) Processor(TM) 9", "num_cores": 4, "instructions": ["avx2", "avx512_vnni"], "gpu": None,
}  # fmt: skip
DONE: dict[str, Any] = {"status": "done", "seconds": 1.0, "rows": [], "findings": []}


def test_what_was_asked_for_is_met_from_there_on() -> None:
    found = Found()
    found.ratio("faster", Ratio(2.0, 1.0, 3.0), target=2.0, note="with x")
    found.finding("slower", 1.99, target=2.0)
    found.finding("unasked", 0.123456789)
    assert found.findings[0] == {
        "name": "faster", "value": 2, "low": 1, "high": 3, "target": 2, "met": True, "unit": "x", "note": "with x",
    }  # fmt: skip
    assert [finding["met"] for finding in found.findings] == [True, False, None]
    assert found.findings[2]["value"] == 0.12346


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_has_no_word_for_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dump({"value": value})


def test_a_document_is_saved_after_every_section_and_grows_over_runs(tmp_path: Path) -> None:
    first = Record.open(MACHINE, size="mini", folder=tmp_path)
    first.put("networks", DONE)
    first.put("detector", {"status": "skipped", "reason": "the time was up"})
    path = first.path
    assert path is not None
    assert path.name.startswith("some-processor-9-4-cores-mini-20")
    assert list(read_record(path)["sections"]) == ["networks", "detector"]
    second = Record.open(MACHINE, size="mini", folder=tmp_path)
    second.put("networks", {"status": "skipped", "reason": "the time was up"})
    second.put("detector", DONE | {"seconds": 2.0})
    sections = read_record(path)["sections"]
    assert sections["networks"] == DONE, (
        "a section that was skipped does not take the place of a measured one"
    )
    assert sections["detector"]["seconds"] == 2
    assert json.loads(second.line()) == read_record(path)
    assert "\n" not in second.line()


def test_other_machines_and_sizes_have_other_files(tmp_path: Path) -> None:
    gpu = MACHINE | {"gpu": {"name": "NVIDIA H100 80GB HBM3"}}
    assert slug(gpu) == "nvidia-h100-80gb-hbm3"
    paths = {Record.open(m, size=s, folder=tmp_path).path for m in (MACHINE, gpu) for s in ("mini", "full")}
    assert len(paths) == 4


def test_bad_places_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder: make it"):
        Record.open(MACHINE, size="mini", folder=tmp_path / "none")
    for text in ("{", "[]", '{"schema": 99}'):
        (tmp_path / "file.json").write_text(text)
        with pytest.raises(UserError, match=r"file\.json .*delete it"):
            read_record(tmp_path / "file.json")


def test_pictures_of_something_and_of_nothing(tmp_path: Path) -> None:
    rows = [
        {
            "name": f"unet {backend}, {size} rows", "network": "unet", "backend": backend, "precision": "fp32",
            "batch_size": size, "per_s": 3.0 * size, "eager_s": 0.5, "of_ceiling": 0.25,
        }
        for backend in ("torch", "openvino")
        for size in (2, 4)
    ]  # fmt: skip
    stages = [{"name": "generate", "stage_s": {"denoise": 3.0, "vae": 1.0}}]
    document: dict[str, Any] = {"machine": MACHINE, "size": "mini", "date": "2026-01-01", "sections": {}}
    draw_plots(document, tmp_path / "empty.png")
    document["sections"] = {
        "networks": {"rows": rows},
        "pipeline": {"rows": stages},
        "kernels": {"status": "skipped"},
    }
    draw_plots(document, tmp_path / "full.png")
    sizes = [(tmp_path / name).read_bytes() for name in ("empty.png", "full.png")]
    assert all(data.startswith(b"\x89PNG") for data in sizes)
    assert len(sizes[1]) > len(sizes[0])
