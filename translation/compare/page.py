"""The page of a comparison, complete in itself: the figure (a row per image, a column per method) and the table."""

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from d2r_fast.engine.report import decimals, number
from d2r_fast.translation.compare.document import Entry
from d2r_fast.translation.compare.pictures import Picture, Pixels
from d2r_fast.translation.compare.published import DIGIFACE_IMAGES, FIGURE_3
from d2r_fast.translation.compare.table import HEADS, digits, hours, percent, rows_of, seconds

MOST_SIDE = 224
"""Pixels at which a picture stands in the page; smaller ones stay as they are."""
Json = dict[str, Any]


def render_page(document: Json, pictures: Sequence[Picture], entries: Sequence[Entry], *, rows: int) -> str:
    """The page's HTML, with at most `rows` of the pictures, evenly spread."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "decimals": decimals, "seconds": seconds, "hours": hours,
                            "percent": percent, "digits": digits}  # fmt: skip
    template = environment.from_string(
        files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        style=files("d2r_fast.engine").joinpath("page.css").read_text(encoding="utf-8"), document=document,
        rows=figure_rows(pictures, entries, num=rows), heads=HEADS, table=rows_of(document),
        num_digiface=DIGIFACE_IMAGES, figure_3=FIGURE_3[1:], absent=absent(document),
    )  # fmt: skip


def figure_rows(pictures: Sequence[Picture], entries: Sequence[Entry], *, num: int) -> list[Json]:
    """Rows of the figure: the source, and of every column the picture and its cosine, or why there is none."""
    places = np.unique(
        np.linspace(0, len(pictures) - 1, min(num, len(pictures))).round().astype(int)
    ).tolist()
    return [
        {
            "name": pictures[place].name,
            "source": data_uri(pictures[place].pixels),
            "cells": [_cell(entry, pictures[place].name, place) for entry in entries],
        }
        for place in places
    ]


def data_uri(pixels: Pixels) -> str:
    """A picture uint8 (H, W, 3) as lossless WebP in a data URI, at most `MOST_SIDE` pixels a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def absent(document: Json) -> list[str]:
    """Columns of Syn2Auth's Figure 3 that this comparison lacks."""
    shown = {column["figure_3"] for column in document["columns"]}
    return [name for name in FIGURE_3[1:] if name not in shown]


def _cell(entry: Entry, name: str, place: int) -> Json:
    pixels = entry.translated.pictures[place]
    return {
        "picture": None if pixels is None else data_uri(pixels),
        "reason": entry.translated.reasons.get(name),
        "cosine": entry.seen and entry.seen.cosines[place],
    }
