"""The README's performance table, made from the saved documents and from nothing else.

python -m d2r_fast.bench.table README.md bench/results     # rewrites what stands between the two markers
"""

import sys
from pathlib import Path
from typing import Any

from d2r_fast.bench.record import name_machine, read_record
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import write_atomic

BEGIN, END = "<!-- performance: begin -->", "<!-- performance: end -->"
HEAD = ("| measured | value | lowest to highest | wanted | with |", "|---|---|---|---|---|")
Json = dict[str, Any]


def render_table(documents: list[Json]) -> str:
    """Markdown: one table per machine and size, of ratios and of whatever was asked for."""
    blocks = []
    for document in documents:
        lines = [f"{caption(document)}\n", *HEAD]
        for section in document["sections"].values():
            found = section.get("findings", ())
            lines += [
                finding_row(finding) for finding in found if finding["unit"] == "x" or finding["target"]
            ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def caption(document: Json) -> str:
    """What it was measured on, in a sentence."""
    machine = document["machine"]
    where = name_machine(machine)
    if not machine["gpu"]:
        native = [name for name in machine["instructions"] if name.endswith(("bf16", "fp16", "vnni"))]
        where += f", {', '.join(native) or 'float32 alone'}"
    return f"{where}, {document['size']} networks, {document['date']}:"


def finding_row(finding: Json) -> str:
    """One line of the table."""
    spread = "" if finding["low"] is None else f"{finding['low']:.3g} to {finding['high']:.3g}"
    value = f"{finding['value']:.3g}{finding['unit']}"
    wanted = (
        "" if finding["target"] is None else f"{finding['target']:g}{'' if finding['met'] else ', short'}"
    )
    return f"| {finding['name']} | {value} | {spread} | {wanted} | {finding['note']} |"


def read_documents(folder: Path) -> list[Json]:
    """One document for every machine and size in a folder: of each section the latest.

    Its `date` is that of the sections, or the first's and the last's.
    """
    by_kind: dict[str, list[Json]] = {}
    for path in sorted(folder.glob("*.json")):
        stem, _, _ = path.stem.rpartition("-20")  # what stands before the date
        if path.with_suffix(".png").exists():  # other results lie here too, without pictures
            by_kind.setdefault(stem, []).append(read_record(path))
    return [join(documents) for documents in by_kind.values()]


def join(documents: list[Json]) -> Json:
    """One machine's documents, oldest first, as one."""
    sections: dict[str, Json] = {}
    dates: dict[str, str] = {}
    for document in documents:
        for name, section in document["sections"].items():
            if section["status"] == "done" or sections.get(name, {}).get("status") != "done":
                sections[name], dates[name] = section, document["date"]
    date = " to ".join(sorted({min(dates.values()), max(dates.values())}))
    return {**documents[-1], "date": date, "sections": sections}


def fill_in(text: str, table: str, *, begin: str = BEGIN, end: str = END) -> str:
    """The text with the table between its markers.

    Raises:
        UserError: it has no markers.
    """
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise UserError(f"no {begin} and {end} in the text: put both where the table is to stand")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    """Rewrite the file."""
    readme, folder = Path(sys.argv[1]), Path(sys.argv[2])
    table = render_table(read_documents(folder))
    write_atomic(readme, fill_in(readme.read_text(), table).encode())


if __name__ == "__main__":
    main()
