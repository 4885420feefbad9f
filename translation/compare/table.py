"""table.md: Syn2Auth's Table 1 as it would be today."""

from typing import Any

from d2r_fast.engine.report import NOTHING, decimals
from d2r_fast.translation.compare.published import DIGIFACE_IMAGES

Json = dict[str, Any]
HEADS = (
    "Method", "s/image", "paper's s/image", "hours for DigiFace-1M", "paper's hours", "identity kept",
    "distance to real", "fallen by", "rule", "backend",
)  # fmt: skip


def render_table(document: Json) -> str:
    """Markdown, a method to a row; `rows_of` says what stands where."""
    lines = [f"| {' | '.join(HEADS)} |", "|---" + "|---:" * 7 + "|---" * 2 + "|"]
    lines += [f"| {' | '.join(cells)} |" for cells in rows_of(document)]
    lines += [
        "",
        f"Paper: {document['published']}. Ours: {document['device']}, networks open, without files.",
    ]
    return "\n".join(lines) + "\n"


def rows_of(document: Json) -> list[list[str]]:
    """Cells in the order of `HEADS`: first the untranslated images, then a column each."""
    real = document["real"]
    before = digits(real["untranslated"]) if real else NOTHING
    kept = decimals(1.0) if document["recogniser"] else NOTHING
    untranslated = ["untranslated", *[NOTHING] * 4, kept, before, NOTHING, NOTHING, NOTHING]
    return [untranslated, *map(_cells, document["columns"])]


def _cells(column: Json) -> list[str]:
    ours, published = column["seconds_per_image"], column["published"]
    theirs = published and published["seconds_per_image"]
    identity, distance = column["identity"], column["distance"]
    return [
        column["title"], seconds(ours), seconds(theirs), hours(ours), hours(theirs),
        decimals(identity and identity["own"]), digits(distance and distance["value"]),
        percent(distance and distance["fallen_by"]),
        "obeys" if column["obeys_the_rule"] else f"breaks: {column['breach']}",
        f"{column['backend']} {column['precision']}",
    ]  # fmt: skip


def seconds(value: float | None) -> str:
    """To three digits; a dash where there is none."""
    return NOTHING if value is None else f"{value:.3g}"


def digits(value: float | None) -> str:
    """A distance to three digits; a dash where there is none."""
    if value is None or abs(value) < 100:
        return decimals(value, 3)
    return f"{value:,.0f}"


def hours(seconds_per_image: float | None) -> str:
    """That DigiFace-1M takes at this speed."""
    if seconds_per_image is None:
        return NOTHING
    value = seconds_per_image * DIGIFACE_IMAGES / 3600
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def percent(share: float | None) -> str:
    """Whole percents; a dash where there is none, and what fell by less than -100 % in words."""
    if share is None:
        return NOTHING
    return f"{decimals(100 * share, 0)} %" if share >= -1 else f"grown {1 - share:,.0f} times"
