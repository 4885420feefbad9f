"""One HTML page about an evaluation, complete in itself: tables, curves, folds, gaps and what not to compare.

The page is a function of the results and of what is said about them.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2

from d2r_fast.engine.report import decimals, duration, number
from d2r_fast.recognition.evaluation.comparison import gap_range, same_sets
from d2r_fast.recognition.evaluation.curves import CURVES, encode_curves
from d2r_fast.recognition.evaluation.inputs import resolves
from d2r_fast.recognition.evaluation.measures import (
    TEMPLATES,
    Gap,
    Measure,
    accuracy,
    five_set_mean,
    over_runs,
    spread,
    tar,
    val,
)
from d2r_fast.recognition.evaluation.paper_tables import paper_tables
from d2r_fast.recognition.evaluation.published import FIVE, read_published
from d2r_fast.recognition.evaluation.results import FARS, Run, Statistic, having, suites_of, to_json
from d2r_fast.recognition.evaluation.roc_plot import (
    FAMILIES,
    Line,
    lines_of,
    render_inline,
    render_png,
    render_svg,
)
from d2r_fast.recognition.evaluation.tables import (
    TITLES,
    Table,
    fusion_tables,
    percent,
    race_tables,
    suite_table,
    title_of,
)
from d2r_fast.recognition.evaluation.text_tables import to_latex, to_markdown

PAGE, ABOUT = "page.html", "about.json"
MAX_HEADLINES = 6
FIVE_TITLES = "accuracy: LFW, CALFW, CPLFW, AgeDB\N{NON-BREAKING HYPHEN}30, CFP\N{NON-BREAKING HYPHEN}FP"


def render_files(runs: Mapping[str, Run], *, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Everything but results.json, by file name; see `results.write_results`."""
    name = name_of(about)
    tables = [suite_table(runs, name=name), *part_tables(runs, name=name), *paper_tables(runs, name=name)]
    lines = lines_of(runs)
    rendered = {
        ABOUT: to_json({**about, "seconds": seconds(runs)}),
        "table.md": to_markdown(tables).encode(),
        "table.tex": to_latex(tables).encode(),
        CURVES: encode_curves(runs),
        PAGE: render_page(runs, about=about, lines=lines).encode(),
    }
    if lines:
        rendered |= {"roc.png": render_png(lines, title=name), "roc.svg": render_svg(lines, title=name)}
    return rendered


def render_page(runs: Mapping[str, Run], *, about: Mapping[str, Any], lines: Mapping[str, list[Line]]) -> str:
    """The page's HTML."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "duration": duration, "decimals": decimals, "percent": percent,
                            "fraction": fraction, "value": show_value}  # fmt: skip
    name = name_of(about)
    style = files("d2r_fast.engine").joinpath("page.css").read_text(encoding="utf-8")
    template = environment.from_string(
        files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    folds, shared = fold_rows(runs), same_sets()
    gaps = {column: gap_range(shared, column) for column in ("calfw", "cplfw", "agedb")}
    return template.render(
        name=name, style=style, runs=runs, headlines=headlines(runs), tables=paper_tables(runs, name=name),
        table=suite_table(runs, name=name), part_tables=part_tables(runs, name=name), folds=folds,
        num_folds=max((len(row["result"].folds) for row in folds), default=0), facts=facts(runs), lines=lines,
        families=FAMILIES, charts={family: render_inline(drawn, family=family) for family, drawn in lines.items()},
        unreached=unreached(runs), absent=absent(runs), fusions=fusions(runs),
        unreadable={fact["title"]: fact["num_unreadable"] for fact in facts(runs) if fact["num_unreadable"]},
        same_sets=shared, gaps=gaps, falls=falls(), settings=settings(about), total_s=sum(seconds(runs).values()),
        gap=Gap.MISSING.value,
    )  # fmt: skip


def name_of(about: Mapping[str, Any]) -> str:
    """What our rows are called."""
    return str(about.get("name", "this network"))


def part_tables(runs: Mapping[str, Run], *, name: str) -> list[Table]:
    """Suites in parts: RFW by race, templates by fusion."""
    return [*race_tables(runs, name=name), *fusion_tables(runs, name=name)]


def headlines(runs: Mapping[str, Run]) -> list[dict[str, str]]:
    """The numbers that a reader looks for first: label, value, unit, what it is."""
    shown: list[tuple[str, Measure, str, str]] = [("Mean of five", five_set_mean, "%", FIVE_TITLES)]
    if isinstance(over_runs(runs, five_set_mean), Gap):
        shown = [(title_of(suite), accuracy(suite), "%", "accuracy") for suite in _pairs(runs)]
    shown += [(title_of(suite), tar(suite, "1e-4"), "%", "TAR at FAR 1e-4") for suite in TEMPLATES]
    shown += [
        ("RFW", accuracy("rfw"), "%", "mean accuracy of the races"),
        ("RFW spread", spread("rfw"), "points", "population std. of the races"),
    ]
    return [
        {"label": label, "value": percent(cell), "unit": "" if isinstance(cell, Gap) else unit, "note": note}
        for label, measure, unit, note in shown
        if (cell := over_runs(runs, measure)) is not Gap.MISSING
    ][:MAX_HEADLINES]


def fold_rows(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Every result that has folds: of which suite or race, of which run."""
    return [
        {"title": f"{title_of(suite)} {race}".strip(), "run": run_name, "result": result}
        for suite in suites_of(runs)
        for run_name, run in runs.items()
        if suite in run
        for race, result in {"": run[suite], **run[suite].races}.items()
        if result.folds
    ]


def facts(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """What each suite consists of; what differs between runs at its most, times summed, VAL averaged."""
    found = []
    for suite in suites_of(runs):
        results = having(runs, suite)
        found.append({
            "title": title_of(suite), "num_genuine": results[0].num_genuine, "num_impostor": results[0].num_impostor,
            "num_unreadable": max(result.num_unreadable for result in results), "fusion": results[0].fusion,
            "seconds": sum(result.seconds for result in results), "val": over_runs(runs, val(suite)),
        })  # fmt: skip
    return found


def unreached(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Per suite the FARs without a TAR in some run: those that need more impostor pairs, and how many, and the others,
    where too many pairs have the highest score."""
    found: list[dict[str, Any]] = []
    for suite in suites_of(runs):
        results = having(runs, suite)
        for race in ("", *results[0].races):
            those = [result.races[race] if race else result for result in results]
            fars = [
                far
                for far in FARS
                if any(far in one.tar_at_far and one.tar_at_far[far] is None for one in those)
            ]
            num_impostor = those[0].num_impostor
            few = [far for far in fars if not resolves(num_impostor, float(far))]
            shared = {"title": f"{title_of(suite)} {race}".strip(), "num_impostor": num_impostor}
            if few:
                found.append({**shared, "fars": few, "needed": round(1 / max(map(float, few)))})
            if len(fars) > len(few):
                found.append({**shared, "fars": [far for far in fars if far not in few], "needed": None})
    return found


def absent(runs: Mapping[str, Run]) -> list[str]:
    """The public benchmarks that no run was evaluated on."""
    return [title for suite, title in TITLES.items() if suite not in suites_of(runs)]


def fusions(runs: Mapping[str, Run]) -> list[str]:
    """Every fusion of templates that was used."""
    found = (result.fusion for run in runs.values() for result in run.values())
    return list(dict.fromkeys(fusion for fusion in found if fusion is not None))


def falls() -> dict[str, tuple[float, float]]:
    """Digi2Real's own columns at 20K and 80K identities (Table 4), percent."""
    rows = {row.labels["num_ids"]: row.values for row in read_published("digi2real_table4").rows}
    return {column: (rows["20K"][column], rows["80K"][column]) for column in ("LFW", "IJB-C")}


def seconds(runs: Mapping[str, Run]) -> dict[str, float]:
    """Time by suite, summed over the runs."""
    return {
        suite: sum(run[suite].seconds for run in runs.values() if suite in run) for suite in suites_of(runs)
    }


def settings(about: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What was said about the evaluation and is not told elsewhere."""
    return [(key, value) for key, value in about.items() if key != "name"]


def fraction(value: float | None) -> str:
    """A rate as percent with two decimals."""
    return percent(Gap.MISSING if value is None else Statistic(value, None, 1))


def show_value(value: Any) -> str:
    """A setting in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pairs(runs: Mapping[str, Run]) -> list[str]:
    """Suites that are told as accuracy, the five first."""
    suites = [suite for suite in suites_of(runs) if suite not in (*TEMPLATES, "rfw")]
    return sorted(suites, key=lambda suite: FIVE.index(suite) if suite in FIVE else len(FIVE))
