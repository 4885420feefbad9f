"""The README's table of faults, made from the saved documents and from nothing else.

python -m d2r_fast.bench.drill.table README.md bench/results     # rewrites what stands between the two markers
"""

import sys
from pathlib import Path

from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.run import Json, read_drills, rows
from d2r_fast.bench.record import name_machine
from d2r_fast.bench.table import fill_in
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import write_atomic

BEGIN, END = "<!-- drill: begin -->", "<!-- drill: end -->"
HEAD = ("| fault | wanted | found | |", "|---|---|---|---|")


def render_table(document: Json) -> str:
    """Markdown: a row for every fault."""
    where = f"{name_machine(document['machine'])}, {document['date']}"
    outcomes = [Outcome(**row) for row in rows(document)]
    lines = [
        f"| {_cell(row.fault)} | {_cell(row.wanted)} | {_cell(row.found)} | {row.verdict} |"
        for row in outcomes
    ]
    return "\n".join([f"{where}{', small numbers' if document['quick'] else ''}:\n", *HEAD, *lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def latest(folder: Path) -> Json:
    """The newest drills in a folder of results.

    Raises:
        UserError: there are none.
    """
    documents = [read_drills(path) for path in sorted(folder.glob("*-drill-*.json"))]
    if not documents:
        raise UserError(f"{folder} has no drills: run d2r-fast drill --save {folder}")
    return max(documents, key=lambda document: (not document["quick"], str(document["date"])))


def main() -> None:
    """Rewrite the file."""
    readme, folder = Path(sys.argv[1]), Path(sys.argv[2])
    text = fill_in(readme.read_text(), render_table(latest(folder)), begin=BEGIN, end=END)
    write_atomic(readme, text.encode())


if __name__ == "__main__":
    main()
