"""quality.json for people: a Markdown page, and a table on the terminal."""

from collections.abc import Mapping
from typing import Any

from d2r_fast.recognition.quality.catalogue import CATALOGUE

NUM_UNUSABLE, NUM_PAIRS = 20, 10
"""Rows shown of the lists; quality.json has them all."""
NOTHING = "\N{EN DASH}"
_COUNTS = ("num_identities", "num_images", "duplicate_pairs")


def show(name: str, value: float | None) -> str:
    """A value as people read it."""
    if value is None:
        return NOTHING
    if name in _COUNTS:
        return f"{int(value):,}"
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4f}"


def render_text(document: Mapping[str, Any]) -> str:
    """The table for the terminal."""
    rows = [
        (CATALOGUE[name].title, show(name, value), CATALOGUE[name].better)
        for name, value in document["measures"].items()
    ]
    wide, number = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{title:<{wide}}  {value:>{number}}  {better}" for title, value, better in rows]
    return "\n".join([*lines, _realism(document), *(f"warning: {text}" for text in document["warnings"])])


def render_summary(document: Mapping[str, Any]) -> str:
    """The Markdown page."""
    dataset, recogniser = document["dataset"], document["recogniser"]
    lines = [
        f"# Quality of {_text(dataset['name'])}",
        "",
        f'Seen by {_text(recogniser["name"])}. "Better" is for training a recogniser on the set; `middle` means '
        "that either extreme trains worse.",
        "",
        *(f"> **Warning.** {text}\n" for text in document["warnings"]),
        "| measure | value | better | what it is |",
        "|---|---:|---|---|",
        *(
            f"| {CATALOGUE[name].title} | {show(name, value)} | {CATALOGUE[name].better} "
            f"| {_text(CATALOGUE[name].meaning)} |"
            for name, value in document["measures"].items()
        ),
        "",
        _realism(document),
        "",
        *_pairs(document),
        *_unusable(document),
        "## Settings",
        "",
        *(f"- {name}: {NOTHING if value is None else value}" for name, value in document["settings"].items()),
        *(f"- {name.replace('_', ' ')}: {value:,}" for name, value in document["counts"].items()),
    ]
    return "\n".join(lines) + "\n"


def _realism(document: Mapping[str, Any]) -> str:
    found = document["realism"]
    if not found["measured"]:
        return f"FID and KID: not measured, {found['reason']}."
    return f"FID and KID: {found['num_images']:,} images against {found['num_real']:,} real photographs."


def _pairs(document: Mapping[str, Any]) -> list[str]:
    pairs = document["most_alike"][:NUM_PAIRS]
    if not pairs:
        return []
    threshold = document["settings"]["duplicate_threshold"]
    return [
        "## Most alike identities",
        "",
        f"Cosines of class centres; above {threshold} they count as near-duplicates.",
        "",
        "| identity | identity | cosine |",
        "|---|---|---:|",
        *(f"| {_text(pair['first'])} | {_text(pair['second'])} | {pair['cosine']:.4f} |" for pair in pairs),
        "",
    ]


def _unusable(document: Mapping[str, Any]) -> list[str]:
    lost = document["unusable"]
    if not lost:
        return []
    left = len(lost) - NUM_UNUSABLE
    return [
        f"## Unusable images: {len(lost):,}",
        "",
        *(f"- {_text(one['key'])}: {_text(one['reason'])}" for one in lost[:NUM_UNUSABLE]),
        *([f"- and {left:,} more, in quality.json"] if left > 0 else []),
        "",
    ]


def _text(text: str) -> str:
    """Text that means itself in Markdown."""
    for mark in "\\|*_`<>[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
