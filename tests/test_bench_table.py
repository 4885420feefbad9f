"""The README's performance table says what the saved documents say."""

from pathlib import Path
from typing import Any

import pytest

from d2r_fast.bench.record import dump
from d2r_fast.bench.table import BEGIN, END, fill_in, read_documents, render_table
from d2r_fast.engine.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def finding(name: str, value: float, **values: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "low": None, "high": None, "target": None, "met": None, "unit": "", "note": ""} | values  # fmt: skip  # noqa: E501


def document(date: str, value: float) -> dict[str, Any]:
    machine = {"cpu": "Some CPU", "num_cores": 2, "instructions": ["avx2", "avx512_vnni"], "gpu": None}
    findings = [
        finding("a over b", value, low=1.5, high=2.5, target=3.0, met=False, unit="x", note="with c"),
        finding("share", 0.975, target=0.97, met=True),
        finding("a detail", 7.0),
    ]
    sections = {"networks": {"status": "done", "findings": findings}, "kernels": {"status": "skipped"}}
    return {"schema": 1, "size": "mini", "date": date, "machine": machine, "sections": sections}


def test_the_readme_holds_the_table_of_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    given = text.partition(BEGIN)[2].partition(END)[0]
    assert given.strip() == render_table(read_documents(ROOT / "bench" / "results")).strip(), (
        "run python -m d2r_fast.bench.table README.md bench/results"
    )


def test_a_table_by_hand() -> None:
    assert render_table([document("2026-01-02", 2.0)]).splitlines() == [
        "Some CPU, 2 cores, avx512_vnni, mini networks, 2026-01-02:",
        "",
        "| measured | value | lowest to highest | wanted | with |",
        "|---|---|---|---|---|",
        "| a over b | 2x | 1.5 to 2.5 | 3, short | with c |",
        "| share | 0.975 |  | 0.97 |  |",
    ]


def test_the_latest_figures_of_a_machine_count(tmp_path: Path) -> None:
    for date, value in (("2026-01-02", 2.0), ("2026-01-10", 9.0)):
        (tmp_path / f"some-cpu-2-cores-mini-{date}.json").write_text(dump(document(date, value)))
        (tmp_path / f"some-cpu-2-cores-mini-{date}.png").touch()
    (tmp_path / "other-result-2026-01-11.json").write_text("{}")
    (found,) = read_documents(tmp_path)
    assert found["date"] == "2026-01-10"
    assert found["sections"]["networks"]["findings"][0]["value"] == 9.0


def test_a_section_measured_again_replaces_itself_alone(tmp_path: Path) -> None:
    old, new = document("2026-01-02", 2.0), document("2026-01-10", 9.0)
    old["sections"]["kernels"] = {"status": "done", "findings": [finding("kernel", 4.0, unit="x")]}
    for given in (old, new):
        path = tmp_path / f"some-cpu-2-cores-mini-{given['date']}.json"
        path.write_text(dump(given))
        path.with_suffix(".png").touch()
    (found,) = read_documents(tmp_path)
    assert found["date"] == "2026-01-02 to 2026-01-10"
    values = [f["value"] for section in found["sections"].values() for f in section["findings"]]
    assert values == [9.0, 0.975, 7.0, 4.0]


def test_a_text_is_filled_in_between_its_markers() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter"
    filled = fill_in(text, "new")
    assert filled == f"before\n{BEGIN}\nnew\n{END}\nafter"
    assert fill_in(filled, "new") == filled
    with pytest.raises(UserError, match="no <!-- performance"):
        fill_in("no markers", "new")
