"""The `compare` command: one page of what every method makes of the same renders, as Syn2Auth's Figure 3 and Table 1.

    compare(CompareConfig(source=Path("digiface"), methods="codeformer=codeformer.pth", out=Path("compared")))

Writes page.html (complete in itself), results.json (every value) and table.md. Nothing is written before all columns
are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.ends import check_apart
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import make_folder, write_atomic
from d2r_fast.engine.folder_lock import held, refuse_foreign
from d2r_fast.engine.source import Image, Source, open_images, open_source
from d2r_fast.recognition.embedder import open_embedder
from d2r_fast.translation.compare.config import Column, CompareConfig
from d2r_fast.translation.compare.document import PAGE, RESULTS, TABLE, Entry, describe, dump
from d2r_fast.translation.compare.measures import Photographs, Witness
from d2r_fast.translation.compare.page import render_page
from d2r_fast.translation.compare.pictures import Picture, choose, read_pictures, spread
from d2r_fast.translation.compare.run_column import run_column
from d2r_fast.translation.compare.table import render_table
from d2r_fast.translation.config import TranslateConfig
from d2r_fast.translation.method import Method
from d2r_fast.translation.methods import open_method
from d2r_fast.translation.opened import Opened
from d2r_fast.translation.translate import settle
from d2r_fast.translation.weights import describe_weights


@dataclass(frozen=True)
class Plan:
    """A column with its weights recognised and its backend decided."""

    column: Column
    settled: TranslateConfig
    method: Method


def compare(config: CompareConfig) -> int:
    """Translate, measure, write the page; returns the exit status.

    Raises:
        UserError: source, weights, photographs, recogniser or `out` cannot be used; all of it before any translation.
        RunError: a network failed, the disk is full, or another process writes into `out`.
    """
    device = find_device(config.device)
    plans = [plan(config, column, device) for column in config.columns]
    source = open_source(config.source)
    check_apart(config.source, config.out)
    refuse_foreign(config.out, own=[RESULTS, PAGE, TABLE], what="comparison")
    pictures, unreadable = read(source, choose(source, num=config.images), what="source")
    witness, photographs = open_witness(config, pictures, device), open_photographs(config, pictures)
    make_folder(config.out)
    entries = [run(one, pictures, witness, photographs, config, device) for one in plans]
    document = describe(
        config,
        entries,
        pictures,
        unreadable=unreadable,
        witness=witness,
        photographs=photographs,
        device=device,
    )
    with held(config.out):
        write_atomic(config.out / TABLE, render_table(document).encode())
        write_atomic(config.out / PAGE, render_page(document, pictures, entries, rows=config.rows).encode())
        write_atomic(config.out / RESULTS, dump(document))
    say(f"compare: {config.out / PAGE}")
    return 0


def plan(config: CompareConfig, column: Column, device: str) -> Plan:
    """A column's weights recognised, and its backend decided as `translate` decides it.

    Raises:
        UserError: the weights cannot be used, or the backend cannot run here.
    """
    settings = column.recipe.model_dump() | {"backend": config.backend, "precision": config.precision}
    whole = TranslateConfig(
        **settings, source=config.source, weights=column.weights, out=config.out, engines=config.engines,
        batch_size=config.batch_size, device=config.device,
    )  # fmt: skip
    settled = settle(whole, device)
    return Plan(column, settled, open_method(settled, column.weights))


def run(
    plan: Plan, pictures: Sequence[Picture], witness: Witness | None, photographs: Photographs | None,
    config: CompareConfig, device: str,
) -> Entry:  # fmt: skip
    """Translate by a column, and measure what came out."""
    settled = plan.settled
    assert settled.backend != "auto", "settled"
    assert settled.precision != "auto", "settled"
    opened = Opened(
        plan.method, backend=settled.backend, precision=settled.precision, engines=settled.engines, device=device,
        batch_size=config.batch_size,
    )  # fmt: skip
    translated = run_column(
        plan.method, opened, pictures, title=plan.column.name, batch_size=config.batch_size, device=device,
        seed=config.seed,
    )  # fmt: skip
    made = [pixels for pixels in translated.pictures if pixels is not None]
    return Entry(
        column=plan.column, settled=settled, weights=describe_weights(settled.method, settled.weights)[0],
        breach=plan.method.breach, translated=translated,
        seen=witness.look(translated.pictures) if witness else None,
        distance=photographs.distance(made) if photographs else None,
    )  # fmt: skip


def read(
    source: Source, chosen: Sequence[tuple[Image, int]], *, what: str
) -> tuple[list[Picture], list[str]]:
    """The chosen pictures, and a line for each that cannot be read.

    Raises:
        UserError: not one of them can be.
    """
    pictures, unreadable = read_pictures(source, chosen)
    for line in unreadable:
        say(f"compare: left out {line}")
    if not pictures:
        raise UserError(f"{what} {source.root}: none of its first {len(unreadable)} images can be read")
    return pictures, unreadable


def open_witness(config: CompareConfig, pictures: Sequence[Picture], device: str) -> Witness | None:
    """The recogniser that looks at the pictures, where there is one."""
    if config.recogniser is None:
        return None
    return Witness(open_embedder(config.recogniser, device=device, batch_size=config.batch_size), pictures)


def open_photographs(config: CompareConfig, pictures: Sequence[Picture]) -> Photographs | None:
    """The photographs to hold the translations against, where there are any."""
    if config.real is None:
        return None
    source = open_images(config.real, option="real")
    real, _ = read(source, spread(source, num=config.real_images), what="real")
    return Photographs(real, pictures, side=config.side, seed=config.seed)
