"""One HTML page about a dataset, complete in itself: pictures, charts, times, problems and settings.

    write_report(Path("dataset"))    # dataset/report.html

The page is a function of the folder's contents, and of the renders if they are still where they were.
"""

import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from d2r_fast.engine.config import Frozen, Recipe
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.figures import cosine_chart, drift_chart, t_chart
from d2r_fast.engine.files import check_out, write_atomic
from d2r_fast.engine.folder_lock import LOCK
from d2r_fast.engine.gallery import Exhibit, exhibits, open_renders, render_picture
from d2r_fast.engine.marker import (
    CARD,
    COMMANDS,
    CONVERTED,
    DOCUMENT,
    GENERATED,
    SUCCESS,
    TRANSLATED,
    is_events,
    kind_of,
    read_document,
    shard_number,
)
from d2r_fast.engine.models.card import RANDOM_LICENCE
from d2r_fast.engine.run_log import Log
from d2r_fast.engine.source import Source
from d2r_fast.engine.summary import MAX_PROTOTYPES, Summary, summarise
from d2r_fast.translation.config import TranslateRecipe

PAGE = "report.html"
TEMPLATES = {GENERATED: "report.html.j2", TRANSLATED: "translated_report.html.j2"}
NUM_EXHIBITS = 24
NUM_ROWS = 12
"""Rows shown of the tables of reasons."""
STAGES = {
    "embed": "read the renders and compute their face embeddings",
    "condition": "turn embeddings into what steers the diffusion network",
    "denoise": "draw in latent space, step by step",
    "vae": "turn latents into pixels",
    "detect": "find the face",
    "restore": "restore accepted images by CodeFormer",
    "finish": "align, crop, embed and encode",
    "decode": "read the renders and turn them into pixels",
    "translate": "run the networks",
    "encode": "turn pixels into image files",
    "write": "put the shard on disk",
}
"""What each timed stage does."""
NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def write_report(dataset: Path, *, out: Path | None = None, num_exhibits: int = NUM_EXHIBITS) -> Path:
    """Write the page about the dataset in folder `dataset`, finished or not, and return where it is.

    Args:
        dataset: folder that `generate` or `translate` wrote to.
        out: the page; default report.html in the dataset's folder.
        num_exhibits: identities to show pictures of, at most.

    Raises:
        UserError: `dataset` is no dataset of d2r-fast, or `out` cannot be written.
        RunError: a finished shard's files are damaged, or the disk is full.
    """
    page = dataset / PAGE if out is None else out
    if kind_of(read_document(dataset)) == CONVERTED:
        raise UserError(
            f"{dataset} was converted, and a report shows how images were made: give the dataset that it comes from"
        )
    check_out(page)
    if _is_own(dataset, page):
        raise UserError(f"out {page} is a file of the dataset: give --out another file name")
    summary = summarise(dataset)
    write_atomic(page, render_page(summary, num_exhibits=num_exhibits).encode())
    return page


def _is_own(dataset: Path, page: Path) -> bool:
    """Whether `page` has the name and place of a file that the dataset consists of."""
    own = page.name in (DOCUMENT, CARD, SUCCESS, LOCK) or is_events(page.name)
    own = own or shard_number(page.name) is not None
    return own and page.parent.samefile(dataset)


def render_page(summary: Summary, *, num_exhibits: int) -> str:
    """The page's HTML."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_read),
    )  # fmt: skip
    environment.filters |= {"number": number, "share": share, "duration": duration, "decimals": decimals,
                            "moment": moment, "value": show_value, "speed": speed}  # fmt: skip
    renders = open_renders(summary.log.source)
    shown = exhibits(summary, limit=num_exhibits, renders=renders)
    kind = kind_of(summary.document)
    return environment.get_template(TEMPLATES[kind]).render(
        style=_read("page.css"), command=COMMANDS[kind], name=summary.folder.resolve().name, summary=summary,
        document=summary.document, plan=summary.document["plan"], untrained=untrained(summary.document), exhibits=shown,
        renders_gone=renders_gone(shown), max_prototypes=MAX_PROTOTYPES, charts=charts(summary),
        pairs=pairs(summary, renders), stages=stages(summary.log), first_try=first_try(summary),
        reasons=ranked(summary.reasons.items()), problems=ranked(summary.problems.items()),
        settings=settings(summary),
    )  # fmt: skip


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def untrained(document: dict[str, Any]) -> list[str]:
    """Networks with random weights, of which no face can be expected."""
    models: dict[str, Any] = document["models"]
    if document.get("models_kind") == "random":
        return list(models)
    return [network for network, entry in models.items() if entry["licence"] == RANDOM_LICENCE]


def renders_gone(shown: Iterable[Exhibit]) -> bool:
    """Whether renders are named, and none of them can be read where they were."""
    groups = [group for exhibit in shown for group in exhibit.groups]
    return bool(groups) and not any(group.picture for group in groups)


def charts(summary: Summary) -> dict[str, Markup | None]:
    """The charts by name; None where there is nothing to draw."""
    drawn = any(histogram.num for histogram in summary.by_t)
    return {
        "cosines": cosine_chart(summary.cos_prototype, summary.between)
        if summary.cos_prototype.num or summary.between.num else None,
        "t": t_chart(summary.t, float(summary.document["recipe"]["alpha"])) if summary.t.num else None,
        "drift": drift_chart(summary.by_t, summary.latent_by_t) if drawn else None,
    }  # fmt: skip


def pairs(summary: Summary, renders: Source | None) -> list[dict[str, Any]]:
    """The most alike identities, each with a render to see why."""
    return [
        {"cosine": pair.cosine, "people": [(name, render_picture(renders, name, file)) for name, file in
                                           (pair.first, pair.second)]}
        for pair in summary.pairs
    ]  # fmt: skip


def stages(log: Log) -> list[dict[str, Any]]:
    """Timed stages in the order of the pipeline, with their share of all of them."""
    total = sum(log.stage_s.values())
    order = [stage for stage in STAGES if stage in log.stage_s]
    order += [stage for stage in log.stage_s if stage not in STAGES]
    return [
        {
            "name": stage, "what": STAGES.get(stage, ""), "seconds": log.stage_s[stage],
            "share": log.stage_s[stage] / total if total else 0.0,
            "speed": log.num_images / log.stage_s[stage] if log.stage_s[stage] else None,
        }
        for stage in order
    ]  # fmt: skip


def first_try(summary: Summary) -> float | None:
    """Share of the written images that were accepted as first drawn."""
    written = summary.attempts.total()
    return summary.attempts[1] / written if written else None


def ranked(counts: Iterable[tuple[Any, int]]) -> dict[str, Any]:
    """The most frequent first, and how many are left out."""
    rows = sorted(counts, key=lambda item: (-item[1], item[0]))
    return {"rows": rows[:NUM_ROWS], "num_hidden": len(rows[NUM_ROWS:])}


def settings(summary: Summary) -> list[dict[str, Any]]:
    """The recipe, with what each setting means and whether it differs from the default."""
    kind: type[Frozen] = Recipe if kind_of(summary.document) == GENERATED else TranslateRecipe
    fields = kind.model_fields
    return [
        {
            "name": name, "value": value,
            "meaning": (fields[name].description or "") if name in fields else "",
            "changed": name in fields and not fields[name].is_required()
            and json.dumps(value) != json.dumps(fields[name].default),
        }
        for name, value in summary.document["recipe"].items()
    ]  # fmt: skip


def number(value: int) -> str:
    """A count with its thousands apart."""
    return f"{value:,}"


def decimals(value: float | None, places: int = 2) -> str:
    """A fixed number of decimals, never a negative zero; a dash where there is no number."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:z.{places}f}".replace("-", MINUS)


def speed(per_second: float | None) -> str:
    """Images per second to three digits."""
    if per_second is None:
        return NOTHING
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def share(part: float, whole: float = 1.0) -> str:
    """A percentage that says 0 % and 100 % of nothing and all alone."""
    if not whole:
        return NOTHING
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return (
        "> 99.9 %"
        if 99.9 < percent < 100
        else f"{percent:.4g} %"
        if percent in (0, 100)
        else f"{percent:.1f} %"
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.42 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def moment(time: float) -> str:
    """A Unix time as date and minute, UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def show_value(value: Any) -> str:
    """A setting as one would type it."""
    if value is None:
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)
