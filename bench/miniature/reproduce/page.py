"""The experiment's page, complete in itself: pictures, claim, tables, plot, measures, times."""

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from d2r_fast.bench.miniature.reproduce.document import (
    HEADINGS,
    measure_rows,
    row_of,
    say_direction,
    tables_of,
)
from d2r_fast.bench.miniature.reproduce.sets import DIGI2REAL, MAIN, REAL, RENDERS
from d2r_fast.engine.decode import decode
from d2r_fast.engine.sheet import WHITE, Pixels, sheet_png
from d2r_fast.engine.source import Source, open_source

PAGE, SHEET, PLOT = "reproduced.html", "pictures.png", "accuracies.png"
NUM_PEOPLE, OF_EACH = 6, 2
Json = dict[str, Any]


def render_page(document: Json, *, sheet: bytes, plot: bytes) -> str:
    """HTML that loads nothing from anywhere."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        style=files("d2r_fast.engine").joinpath("page.css").read_text(encoding="utf-8"), document=document,
        claim=say_direction(document), sheet=_data_uri(sheet), plot=_data_uri(plot),
        tables=[
            {"title": table.title, "rows": [[said, *row_of(document, name)] for name, said in table.rows.items()]}
            for table in tables_of(document)
        ],
        headings=HEADINGS,
        measures=measure_rows(document),
    )  # fmt: skip


def render_sheet(out: Path) -> bytes:
    """PNG: a row of every main set, the same people below each other but for the last row's, who are others."""
    sources = {name: open_source(out / name) for name in MAIN}
    generated = {identity.name for identity in sources[DIGI2REAL].identities if identity.images}
    people = [identity.name for identity in sources[RENDERS].identities if identity.name in generated]
    others = [identity.name for identity in sources[REAL].identities]
    rows = [_row(source, others if name == REAL else people) for name, source in sources.items()]
    return sheet_png(rows)


def _row(source: Source, people: list[str]) -> list[Pixels]:
    """The first pictures of the first people, and white where somebody has fewer."""
    images = {identity.name: list(identity.images) for identity in source.identities}
    shown: list[Pixels] = []
    for name in people[:NUM_PEOPLE]:
        found = [decode(source.read(image)) for image in images.get(name, [])[:OF_EACH]]
        shown += found + [np.full_like(found[0], WHITE)] * (OF_EACH - len(found)) if found else []
    return shown


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
