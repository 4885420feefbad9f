"""What the experiment came to: reproduced.json, with every accuracy, and its tables as the papers have theirs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig, Scale
from d2r_fast.bench.miniature.reproduce.scores import read_rankings
from d2r_fast.bench.miniature.reproduce.sets import (
    DIGI2REAL,
    MAIN,
    REAL,
    RENDERS,
    UNIFORM,
    parts_of,
)
from d2r_fast.bench.miniature.reproduce.trials import trials_of
from d2r_fast.engine.source import open_source
from d2r_fast.recognition.evaluation.results import statistic

DOCUMENT = "reproduced.json"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a paper's table in small: set and what is said of it."""

    title: str
    rows: dict[str, str]


def describe(config: ReproduceConfig, names: Sequence[str], seconds: dict[str, float]) -> Json:
    """Everything, from what lies in the experiment's folder."""
    sets = {name: describe_set(config, name) for name in names}
    means = {name: sets[name]["accuracy"]["mean"] for name in MAIN}
    room = means[REAL] - means[RENDERS]
    return {
        "name": "reproduce", "settings": settings_of(config), "seconds": seconds, "sets": sets,
        "digi2real_less_renders": means[DIGI2REAL] - means[RENDERS],
        "gap_closed": {
            name: (means[name] - means[RENDERS]) / room if room > 0 else None
            for name in MAIN if name not in (RENDERS, REAL)
        },
        "measures": read_rankings(config),
    }  # fmt: skip


def settings_of(config: ReproduceConfig) -> Json:
    """Everything that decides what comes out, but for the head and the models."""
    return {"seed": config.seed, "quick": config.quick, **config.scale.model_dump(mode="json")}


def describe_set(config: ReproduceConfig, name: str) -> Json:
    """How large a set is, and what was reached with it."""
    held = [identity for identity in open_source(config.out / name).identities if identity.images]
    found = [trial.accuracy for trial in trials_of(config, name)]
    return {
        "identities": len(held), "images": sum(len(identity.images) for identity in held),
        "accuracy": {**asdict(statistic(found)), "seeds": found},
    }  # fmt: skip


def tables_of(document: Json) -> list[Table]:
    """Table 5, and where they were made Tables 1 to 4, of Digi2Real."""
    scale = Scale(**{name: document["settings"][name] for name in Scale.model_fields})
    tables = [
        Table(
            "Table 5: what is trained on",
            {
                "renders": "(a) renders", DIGI2REAL: "(b) Digi2Real of them",
                "syn2auth": "(c) translated by UNSB, as Syn2Auth does", REAL: "(d) photographs of others",
            },
        )
    ]  # fmt: skip
    if UNIFORM not in document["sets"]:
        return tables
    titles = {
        "images": ("Table 1: images per identity", f"{scale.images} of each"),
        "identities": ("Table 3: number of identities", f"{scale.identities} people"),
        "distinct": (
            "Table 4: the most distinct identities, by rank-identities",
            f"{scale.identities} people",
        ),
    }
    by_kind: dict[str, dict[str, str]] = {kind: {} for kind in titles}
    for name in parts_of(scale):
        _, kind, number = name.split("-")
        by_kind[kind][name] = f"{number} of each" if kind == "images" else f"{number} people"
    one, three, four = (
        Table(title, by_kind[kind] | {DIGI2REAL: whole}) for kind, (title, whole) in titles.items()
    )
    two = Table("Table 2: alpha of t ~ Beta(alpha, alpha)", {UNIFORM: "1, uniform", DIGI2REAL: "2"})
    return [*tables, one, two, three, four]


def row_of(document: Json, name: str) -> list[str]:
    """Identities, images, mean accuracy with its deviation, and each seed's, as text."""
    found = document["sets"][name]
    accuracy = found["accuracy"]
    spread = "" if accuracy["std"] is None else f" ± {100 * accuracy['std']:.2f}"
    return [
        f"{found['identities']:,}", f"{found['images']:,}", f"{100 * accuracy['mean']:.2f}{spread}",
        ", ".join(f"{100 * value:.2f}" for value in accuracy["seeds"]),
    ]  # fmt: skip


def render_tables(document: Json) -> str:
    """The tables in Markdown."""
    lines = []
    for table in tables_of(document):
        lines += [
            f"| {table.title} | identities | images | accuracy, % | by seed |",
            "|---|---:|---:|---:|---|",
        ]
        lines += [f"| {' | '.join([said, *row_of(document, name)])} |" for name, said in table.rows.items()]
        lines.append("")
    return "\n".join(lines)


def render_measures(document: Json) -> str:
    """How the measures of `quality` rank the sets beside their accuracies, in Markdown."""
    lines = ["| measure | sets | Spearman's rho | 95 % |", "|---|---:|---:|---|"]
    for found in document["measures"]:
        if found["rho"] is not None:
            interval = "" if found["low"] is None else f"{found['low']:+.2f} to {found['high']:+.2f}"
            lines.append(f"| {found['measure']} | {found['num']} | {found['rho']:+.2f} | {interval} |")
    return "\n".join(lines)


def say_direction(document: Json) -> str:
    """The claim and what came of it, in a sentence."""
    difference = 100 * document["digi2real_less_renders"]
    verdict = (
        f"Digi2Real beats renders by {difference:.2f} points"
        if difference > 0
        else f"Digi2Real does not beat renders: it is {-difference:.2f} points below"
    )
    closed = document["gap_closed"][DIGI2REAL]
    share = "" if closed is None else f", {closed:.0%} of what photographs would add"
    return f"{verdict}{share}."
