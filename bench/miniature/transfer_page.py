"""The tables of docs/transfer.md, made from the saved experiment and from nothing else.

python -m d2r_fast.bench.miniature.transfer_page docs/transfer.md bench/results   # rewrites what stands between markers
"""

import json
import os
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from d2r_fast.bench.miniature.transfer_results import OWN, UNTRANSLATED
from d2r_fast.bench.record import name_machine
from d2r_fast.bench.table import fill_in
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import write_atomic

BEGIN, END = "<!-- transfer: begin -->", "<!-- transfer: end -->"
Json = dict[str, Any]


def read_latest(folder: Path) -> tuple[Json, Path]:
    """The newest experiment in a folder of results, and its contact sheet.

    Raises:
        UserError: there is none.
    """
    found = sorted(folder.glob("transfer-*.json"), key=lambda path: path.stem[-len("2026-01-31") :])
    if not found:
        raise UserError(
            f"{folder} has no transfer-*.json: run python -m d2r_fast.bench.miniature.transfer with --save {folder}"
        )
    return json.loads(found[-1].read_text()), found[-1].with_name(f"{found[-1].stem}-sheet.png")


def render_page(document: Json, sheet: str) -> str:
    """Markdown: distances and identity of every set, what was asked for, settings, times, and the sheet."""
    sets = list(document["distance"])
    methods = [name for name in sets if name not in (UNTRANSLATED, OWN)]
    judges = document["identity"]
    head = ["pictures", "distance", "fallen by", *(f"identity kept, {name}" for name in judges)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name in (UNTRANSLATED, *methods, OWN):
        kept = [judge["sets"][name] for judge in judges.values()]
        fallen = document["distance_fallen_by"].get(name)
        cells = [
            name, f"{document['distance'][name]:.3f}", "" if fallen is None else f"{fallen:.0%}",
            *(f"{each['own']:.3f} ({each['share']:.3f})" for each in kept),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", _on_average(document, methods), ""]
    halves = document["distance_of_halves"]
    times = [f"{part} {took:.0f} s" for part, took in document["seconds"].items()]
    wanted = document["wanted"]
    lines += [
        f"Wanted: a distance that falls by {wanted['distance_fallen_by']:.0%}, and {wanted['identity_share']:g} of the "
        "cosine to the own render, which untranslated is 1, by one of the recognisers. Halves of the photographs, with "
        "nobody in both, are "
        f"{halves['mean']:.3f} +- {halves['std']:.3f} apart. {document['num_pictures']} pictures, "
        f"{document['num_photographs']} photographs of other people.",
        "",
        f"On {name_machine(document['machine'])}: {', '.join(times)}.",
        "",
        f"![Rows: {', '.join((*sets, 'other people'))}]({sheet})",
        "",
        f"From top to bottom: {', '.join((*sets, 'photographs of other people'))}.",
    ]
    return "\n".join(lines)


def averages(document: Json, method: str) -> tuple[float, dict[str, tuple[float, float]]]:
    """Over a method's trainings: what the distance has fallen by, and recogniser -> cosine to the own render and share
    of the cosine to the same person's other renders."""
    runs = [name for name in document["distance"] if name.startswith(f"{method}, ")]
    fallen = mean(document["distance_fallen_by"][name] for name in runs)
    kept = {
        name: (
            mean(judge["sets"][run]["own"] for run in runs),
            mean(judge["sets"][run]["share"] for run in runs),
        )
        for name, judge in document["identity"].items()
    }
    return fallen, kept


def _on_average(document: Json, runs: list[str]) -> str:
    lines = []
    for method in dict.fromkeys(run.partition(",")[0] for run in runs):
        fallen, kept = averages(document, method)
        found = ", ".join(f"{own:.3f} ({share:.3f}) by {name}" for name, (own, share) in kept.items())
        lines.append(
            f"On average, by {method} the distance has fallen by {fallen:.0%} and identity kept is {found}."
        )
    return " ".join(lines)


def main() -> None:
    """Rewrite the page."""
    page, folder = Path(sys.argv[1]), Path(sys.argv[2])
    document, sheet = read_latest(folder)
    table = render_page(document, os.path.relpath(sheet, page.parent))
    write_atomic(page, fill_in(page.read_text(), table, begin=BEGIN, end=END).encode())


if __name__ == "__main__":
    main()
