"""`d2r-fast reproduce --miniature`: does making renders realistic improve face recognition? In small.

One renderer, one camera, one head; nobody is in two sets. The sets are made by the commands that make the real ones, a
small network is trained on each from several seeds, and all are verified on photographs of other people.
"""

import datetime
import json
from functools import partial

from d2r_fast.bench.machine import describe_machine, describe_versions, revision
from d2r_fast.bench.miniature.arithmetic import precision_of
from d2r_fast.bench.miniature.experiment import Clock, made_of, settle
from d2r_fast.bench.miniature.processes import side_by_side
from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig
from d2r_fast.bench.miniature.reproduce.document import (
    DOCUMENT,
    describe,
    render_measures,
    render_tables,
    say_direction,
    settings_of,
)
from d2r_fast.bench.miniature.reproduce.page import PAGE, PLOT, SHEET, render_page, render_sheet
from d2r_fast.bench.miniature.reproduce.photographs import behind_models
from d2r_fast.bench.miniature.reproduce.plot import render_plot
from d2r_fast.bench.miniature.reproduce.scores import score_all
from d2r_fast.bench.miniature.reproduce.sets import (
    DIGI2REAL,
    UNIFORM,
    draw_all,
    generation_of,
    link_parts,
    measure_offset,
    names_of,
    rank,
    translation_of,
    translation_training_of,
)
from d2r_fast.bench.miniature.reproduce.trials import run_trials
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import RunError
from d2r_fast.engine.files import write_atomic
from d2r_fast.engine.marker import document_digest
from d2r_fast.engine.models.layout import describe_files
from d2r_fast.engine.models.miniature import MINIATURE, PACKED, unpack_miniature

TABLES = "reproduced.md"


def reproduce(config: ReproduceConfig) -> int:
    """Everything, into `config.out`; the last line printed says what came of the claim. Returns the exit status.

    Raises:
        UserError: no head or no models there, or `out` holds another experiment.
        RunError: the disk is full, or a part failed.
    """
    begin(config)
    clock, names = Clock("reproduce", config.out), names_of(config)
    clock("draw", partial(draw_all, config))
    with side_by_side(config.device) as pool:
        learning = pool.submit(learn_translation, config)
        clock("rank", partial(rank, config))
        clock("offset", partial(measure_offset, config))
        clock("generate, beside learning to translate", partial(generate_all, config))
        clock("learn to translate, from there on", learning.result)
    clock("translate", partial(translate_all, config))
    clock("train and verify", partial(run_trials, config, names))
    if not config.quick:
        clock("measure", partial(score_all, config, names))
    write_all(config, names, clock.seconds)
    return 0


def begin(config: ReproduceConfig) -> None:
    """See that everything is there, and that what is in `out` was made of the same."""
    behind_models(config)  # a card that cannot be read is said now, not after an hour
    settle(config.out, settings_of(config) | all_made_of(config))
    if config.models is None and not config.model_folder.exists():
        unpack_miniature(MINIATURE / PACKED, config.model_folder)


def all_made_of(config: ReproduceConfig) -> dict[str, str]:
    """What every experiment is made of, and the networks that draw, wherever they lie."""
    shared = made_of(config.facekit, config.device)
    models = MINIATURE / PACKED if config.models is None else config.models
    networks, _ = describe_files(models, recogniser=None, detector="mtcnn", sampler="dpm++2m")
    return shared | {
        "precision": precision_of(config.device),
        "networks": document_digest({name: network["sha256"] for name, network in networks.items()}),
    }


def generate_all(config: ReproduceConfig) -> None:
    """Digi2Real of the renders, its variant, and the parts of it.

    Raises:
        RunError: too few of the images hold a face.
    """
    from d2r_fast.engine.pipeline import generate

    for name in (DIGI2REAL,) if config.quick else (DIGI2REAL, UNIFORM):
        if generate(generation_of(config, name)):
            raise RunError(
                f"{config.out / name} lacks many of its images: see its errors, and give other --models"
            )
    if not config.quick:
        link_parts(config)


def learn_translation(config: ReproduceConfig) -> None:
    """Beside the generation, in a process of its own."""
    from d2r_fast.translation.training.train_transfer import train_transfer

    train_transfer(translation_training_of(config))


def translate_all(config: ReproduceConfig) -> None:
    """The renders as UNSB translates them.

    Raises:
        RunError: too many of them failed.
    """
    from d2r_fast.translation.translate import translate

    if translate(translation_of(config)):
        raise RunError(f"{config.out} lacks many of the translations: see their errors")


def write_all(config: ReproduceConfig, names: list[str], seconds: dict[str, float]) -> None:
    """Document, tables, pictures, plot and page, and the tables on the terminal."""
    document = describe(config, names, seconds) | {
        "made_of": all_made_of(config), "machine": describe_machine(find_device(config.device)),
        "versions": describe_versions(), "revision": revision(), "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    tables = f"{render_tables(document)}\n{render_measures(document)}\n"
    sheet, plot = render_sheet(config.out), render_plot(document)
    files: dict[str, bytes] = {
        SHEET: sheet, PLOT: plot, TABLES: tables.encode(),
        PAGE: render_page(document, sheet=sheet, plot=plot).encode(),
        DOCUMENT: (json.dumps(document, indent=1, allow_nan=False) + "\n").encode(),
    }  # fmt: skip
    for name, data in files.items():
        write_atomic(config.out / name, data)
    print(tables)
    print(f"page: {config.out / PAGE}")
    print(say_direction(document))
