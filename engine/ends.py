"""What every run that makes a dataset does first and last, whatever makes the images."""

from pathlib import Path

from d2r_fast.engine.console import say
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.errors import UserError


def check_apart(source: Path, out: Path | str) -> None:
    """See that the dataset would not become an identity of its own source.

    Raises:
        UserError: it would.
    """
    if isinstance(out, str):  # behind fsspec, where no source is
        return
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"out {out} lies in the source {source}, where it would become an identity")


def conclude(counts: dict[str, int], dataset: Dataset, *, max_error_rate: float) -> int:
    """Say how it ended; the exit status."""
    lost = counts["rejected"] + counts["failed"]
    part = ""
    if dataset.shards is not None:
        rest = "the dataset is whole" if dataset.complete else "others are not finished yet"
        part = f"; shards {dataset.shards.start}:{dataset.shards.stop} are done, {rest}"
    say(
        f"{counts['written']} of {counts['wanted']} images written, {counts['rejected']} rejected, "
        f"{counts['failed']} failed: {dataset.name}{part}"
    )
    if lost > max_error_rate * counts["wanted"]:
        place = dataset.folder if dataset.remote is None else "COPY"
        copy = "" if dataset.remote is None else f" of a copy of {dataset.name}"
        say(
            f"more than --max-error-rate {max_error_rate:g} is missing; `d2r-fast report {place}`{copy} shows why"
        )
        return 3
    return 0
