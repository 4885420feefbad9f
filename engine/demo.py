"""`d2r-fast demo`: the whole pipeline on built-in drawings with untrained mini models."""

from pathlib import Path

from d2r_fast.engine.config import GenerateConfig, smoke
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import disk_errors
from d2r_fast.engine.models.init import init_models
from d2r_fast.engine.pipeline import generate
from d2r_fast.engine.report import write_report
from d2r_fast.engine.samples import draw_samples
from d2r_fast.engine.verify import run_verify


def run_demo(out: Path) -> int:
    """Write models, renders, a dataset and its report below `out`; a second call goes on where one stopped.

    Raises:
        UserError: `out` is there and is not a demo's folder, or cannot be made.
    """
    models, renders, dataset = out / "models", out / "renders", out / "untrained-demo"
    if _is_new(out):
        say("writing untrained mini models")
        init_models(models, size="mini")
    say("drawing sample renders")
    draw_samples(renders)
    status = generate(GenerateConfig(**smoke(), source=renders, models=models, out=dataset))
    status = status or run_verify(dataset)
    say("mini models are untrained and draw noise: the page shows the machinery, not faces")
    print(f"report: {write_report(dataset)}")
    return status


def _is_new(out: Path) -> bool:
    """Make the folder `out` if need be, and say whether it is still empty; UserError if it is no demo's."""
    try:
        with disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            is_empty = not any(out.iterdir())
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"out {out} is no folder: give an empty or new --out") from None
    if not is_empty and not (out / "models").is_dir():
        raise UserError(f"{out} holds other files: give an empty or new --out")
    return is_empty
