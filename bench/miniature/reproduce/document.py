"""What the experiment came to: reproduced.json, with every accuracy, and its tables as the papers have theirs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig, Scale
from d2r_fast.bench.miniature.reproduce.difference import Difference, difference
from d2r_fast.bench.miniature.reproduce.photographs import behind, behind_guide
from d2r_fast.bench.miniature.reproduce.scores import rank_measures
from d2r_fast.bench.miniature.reproduce.sets import (
    DIGI2REAL,
    MAIN,
    REAL,
    RENDERS,
    SOURCE_DOMAIN,
    SYN2AUTH,
    UNIFORM,
    parts_of,
)
from d2r_fast.bench.miniature.reproduce.trials import GUIDE, read_verified, trials_of
from d2r_fast.engine.source import open_source
from d2r_fast.recognition.evaluation.results import statistic

DOCUMENT = "reproduced.json"
HEADINGS = (
    "identities",
    "images",
    "steps",
    "photographs behind it, named + unnamed",
    "accuracy, %",
    "by seed",
)
"""Of the columns beside the first."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a paper's table in small: set and what is said of it."""

    title: str
    rows: dict[str, str]


def describe(config: ReproduceConfig, names: Sequence[str], seconds: dict[str, float]) -> Json:
    """Everything, from what lies in the experiment's folder."""
    apart = {name: apart_from_renders(config, name) for name in MAIN if name != RENDERS}
    room = apart[REAL]
    return {
        "name": "reproduce", "settings": settings_of(config), "seconds": seconds,
        "sets": {name: describe_set(config, name) for name in names} | {GUIDE: describe_guide(config)},
        "over_renders": {name: found.entry() for name, found in apart.items()},
        "gap_closed": {
            name: found.mean / room.mean if room.mean > 0 and room.is_sure else None
            for name, found in apart.items() if name != REAL
        },
        "measures": [] if config.quick else rank_measures(config, names),
    }  # fmt: skip


def settings_of(config: ReproduceConfig) -> Json:
    """What decides what comes out, but for the head and the models."""
    return {
        "seed": config.seed,
        "quick": config.quick,
        "source": SOURCE_DOMAIN,
        **config.scale.model_dump(mode="json"),
    }


def apart_from_renders(config: ReproduceConfig, name: str) -> Difference:
    """How much better a set is to train on than renders."""
    one, other = (
        [trial.verified["folds"] for trial in trials_of(config, which)] for which in (name, RENDERS)
    )
    return difference(one, other)


def describe_set(config: ReproduceConfig, name: str) -> Json:
    """How large a set is, what it took, and what was reached with it."""
    held = [identity for identity in open_source(config.out / name).identities if identity.images]
    trials = trials_of(config, name)
    found = [trial.verified["accuracy"] for trial in trials]
    return {
        "identities": len(held), "images": sum(len(identity.images) for identity in held),
        "steps": trials[0].steps, "photographs": behind(config, name),
        "accuracy": {**asdict(statistic(found)), "seeds": found},
    }  # fmt: skip


def describe_guide(config: ReproduceConfig) -> Json:
    """The network that (b) is steered by, which no set here trained."""
    found = [read_verified(config.out / GUIDE)["accuracy"]]
    return {
        "identities": None, "images": None, "steps": None, "photographs": behind_guide(config),
        "accuracy": {**asdict(statistic(found)), "seeds": found},
    }  # fmt: skip


def tables_of(document: Json) -> list[Table]:
    """Table 5, and where they were made Tables 1 to 4, of Digi2Real."""
    scale = Scale(**{name: document["settings"][name] for name in Scale.model_fields})
    tables = [
        Table(
            "Table 5: what is trained on",
            {
                RENDERS: "(a) studio renders", DIGI2REAL: "(b) Digi2Real of them",
                SYN2AUTH: "(c) translated by UNSB, as Syn2Auth does", REAL: "(d) photographs of others",
                GUIDE: "the network that (b) is steered by",
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
    """A set under the HEADINGS, as text: the mean accuracy with its deviation, and each seed's."""
    found = document["sets"][name]
    accuracy, photographs = found["accuracy"], found["photographs"]
    spread = "" if accuracy["std"] is None else f" ± {100 * accuracy['std']:.2f}"
    return [
        *("" if found[count] is None else f"{found[count]:,}" for count in ("identities", "images", "steps")),
        "unknown" if photographs is None else f"{photographs['named']:,} + {photographs['unnamed']:,}",
        f"{100 * accuracy['mean']:.2f}{spread}",
        ", ".join(f"{100 * value:.2f}" for value in accuracy["seeds"]),
    ]


def render_tables(document: Json) -> str:
    """The tables in Markdown."""
    lines = []
    for table in tables_of(document):
        lines += [f"| {table.title} | {' | '.join(HEADINGS)} |", "|---|---:|---:|---:|---:|---:|---|"]
        lines += [f"| {' | '.join([said, *row_of(document, name)])} |" for name, said in table.rows.items()]
        lines.append("")
    return "\n".join(lines)


def render_measures(document: Json) -> str:
    """How the measures of `quality` rank the sets beside their accuracies, in Markdown; nothing where none did."""
    lines = [f"| {' | '.join(row)} |" for row in measure_rows(document)]
    return "\n".join(["| measure | rho, sets of one size | rho, all sets | all |", "|---|---:|---:|---:|", *lines]
                     if lines else [])  # fmt: skip


def measure_rows(document: Json) -> list[list[str]]:
    """Measure, its rhos and the number of sets, as text; those that tell sets apart."""
    return [
        [found["measure"], *("" if found[rho] is None else f"{found[rho]:+.2f}" for rho in ("rho_whole", "rho")),
         str(found["num"])]
        for found in document["measures"] if found["rho"] is not None
    ]  # fmt: skip


def say_direction(document: Json) -> str:
    """The claim and what came of it, in a sentence."""
    found = document["over_renders"][DIGI2REAL]
    mean, error = 100 * found["mean"], f"{100 * found['error']:.1f} points"
    if found["trainings"] == 1:
        return f"Digi2Real less renders: {mean:+.1f} ± {error} by these pairs, of one training each."
    if not found["sure"]:
        return f"Digi2Real and renders do not differ beyond chance: {mean:+.1f} ± {error}."
    if mean < 0:
        return f"Digi2Real does not beat renders: it is {-mean:.1f} ± {error} below."
    closed = document["gap_closed"][DIGI2REAL]
    share = "" if closed is None else f", {closed:.0%} of what as many photographs of others would add"
    return f"Digi2Real beats renders by {mean:.1f} ± {error}{share}."
