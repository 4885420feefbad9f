"""What a drill run is told: the fields are the flags of `d2r-fast drill`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from d2r_fast.engine.config import Frozen

DrillName = Literal[
    "kills", "signals", "scan", "inputs", "counts", "full-disk", "damage", "resume", "second", "workers", "soak",
    "hung",
]  # fmt: skip
DRILLS: dict[DrillName, str] = {
    "kills": "kills", "signals": "signals", "scan": "scan", "inputs": "inputs", "counts": "counts",
    "full-disk": "full_disk", "damage": "damage", "resume": "resume", "second": "second", "workers": "workers",
    "soak": "soak", "hung": "hung",
}  # fmt: skip
"""Modules of this folder, in the order in which they run."""


LEAST_SOAK_S = 60.0


class DrillConfig(Frozen):
    """Which faults to cause, how many, and where."""

    quick: bool = False
    """Small numbers, in about a minute: whether the drill runs at all. Default: the numbers asked for."""
    only: tuple[DrillName, ...] = ()
    """Drills to run. Default: all."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Chooses moments, places and faults."""
    soak_s: Annotated[float, Field(ge=0)] | None = None
    """Seconds of one long run whose memory is watched, and whose rate is then held against that of a new one, which
    takes seven minutes more; 0 leaves it out. Default: 600, with --quick 0."""
    folder: Path | None = None
    """Folder to work in; what is made there is deleted at the end. Default: a temporary one. Its disk is the one that
    is drilled."""
    save: Path | None = None
    """Folder for <device>-drill-<date>.json, from which the README's table is made."""

    @field_validator("soak_s")
    @classmethod
    def _long_or_none(cls, seconds: float | None) -> float | None:
        if seconds is not None and 0 < seconds < LEAST_SOAK_S:
            raise ValueError(f"{seconds:g} s tell nothing of a long run: give {LEAST_SOAK_S:g} or more, or 0")
        return seconds
