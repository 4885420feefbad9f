"""What a drill found beside what was wanted."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fault, met or not.

    Attributes:
        fault: what was done to a run.
        wanted: what should come of it.
        found: what did.
        met: None where this machine cannot show it, which `found` explains.
        note: how it was done.
    """

    fault: str
    wanted: str
    found: str
    met: bool | None
    note: str = ""

    @property
    def verdict(self) -> str:
        return {True: "met", False: "NOT MET", None: "not run"}[self.met]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
