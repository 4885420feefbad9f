"""Tables as Markdown and as LaTeX (booktabs)."""

from collections.abc import Sequence
from itertools import takewhile

from d2r_fast.recognition.evaluation.tables import Row, Table, percent

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\N{EN DASH}": "--",
        "±": r"$\pm$",
    }
)


def to_markdown(tables: Sequence[Table]) -> str:
    """One section per table; marked rows are bold."""
    return "\n\n".join(_markdown_table(table) for table in tables) + "\n"


def to_latex(tables: Sequence[Table]) -> str:
    """One `table*` environment per table, for booktabs. Marked rows are bold, those at the end ruled off."""
    head = "% Needs \\usepackage{booktabs}."
    return "\n\n".join([head, *(_latex_table(table) for table in tables)]) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [
        f"### {_markdown_text(table.title)}\n",
        _markdown_line([*table.heads, *table.columns]),
        _markdown_line(["---"] * len(table.heads) + ["---:"] * len(table.columns)),
        *(_markdown_row(row) for row in table.rows),
        *(f"\n{_markdown_text(note)}" for note in table.notes),
    ]
    return "\n".join(lines)


def _markdown_row(row: Row) -> str:
    mark = "**" if row.marked else ""
    cells = [*map(_markdown_text, row.labels), *map(percent, row.cells)]
    return _markdown_line([f"{mark}{cell}{mark}" for cell in cells])


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_text(text: str) -> str:
    """Text that means itself: no column ends, no emphasis, no HTML in it."""
    for mark in "\\|*_`<>[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _latex_table(table: Table) -> str:
    caption = " ".join([f"{table.title}.", *table.notes])
    last = sum(1 for _ in takewhile(lambda row: row.marked, reversed(table.rows)))
    body = [_latex_row(row) for row in table.rows]
    if 0 < last < len(body):
        body.insert(len(body) - last, r"\midrule")
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\small",
            r"\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_latex_text(caption)}}}",
            rf"\label{{tab:{table.key}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.heads)}{'r' * len(table.columns)}}}",
            r"\toprule",
            _latex_line([*map(_latex_text, (*table.heads, *table.columns))]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
        ]
    )


def _latex_row(row: Row) -> str:
    cells = [*row.labels, *map(percent, row.cells)]
    texts = [_latex_text(cell) for cell in cells]
    return _latex_line([rf"\textbf{{{text}}}" for text in texts] if row.marked else texts)


def _latex_line(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _latex_text(text: str) -> str:
    return " ".join(text.translate(_LATEX).split())
