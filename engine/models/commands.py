"""The commands of model folders; work is imported inside `run`, so that naming a command costs nothing."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional

from d2r_fast.engine.command import Command
from d2r_fast.translation.config import MethodName


class ModelsInit(Command):
    """Write a model folder of random weights in the real layout, or a translation method's checkpoint, for tests, speed
    work and export."""

    out: Positional[Path]
    """Folder to make; it must not exist or be empty. With --method the folder to write the checkpoint into."""
    size: Literal["mini", "full"]
    """mini: some MB of the same classes; full: the true shapes of SD1.5, CLIP ViT-L/14, IR-100 and SCRFD-10G."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Same seed, same bytes."""
    method: MethodName | None = None
    """Translation method to write a checkpoint of, in its publisher's layout."""

    def run(self) -> int:
        if self.method is not None:
            from d2r_fast.translation.random_weights import write_random_weights

            path = write_random_weights(self.method, self.out, size=self.size, seed=self.seed)
            print(f"wrote random {self.size} weights to {path}")
            return 0
        from d2r_fast.engine.models.init import init_models

        init_models(self.out, size=self.size, seed=self.seed)
        print(f"wrote random {self.size} models to {self.out}")
        return 0


class ModelsMini(Command):
    """Write the trained miniature: small networks of ours that draw faces of 128 pixels, of nobody who lives."""

    out: Positional[Path]
    """Folder to make; it must not exist or be empty."""

    def run(self) -> int:
        from d2r_fast.engine.models.miniature import MINIATURE, PACKED, unpack_miniature

        unpack_miniature(MINIATURE / PACKED, self.out)
        print(f"wrote the trained miniature to {self.out}")
        return 0


class ModelsPull(Command):
    """Download the released weights at pinned revisions, after showing their licences."""

    out: Positional[Path]
    """Folder to make or complete."""

    def run(self) -> int:
        from d2r_fast.engine.models.pull import pull_models

        pull_models(self.out)
        return 0


class ModelsCheck(Command):
    """List what a model folder holds: shapes, sha256, licences, what is missing or damaged."""

    folder: Positional[Path]
    """Model folder."""

    def run(self) -> int:
        from d2r_fast.engine.models.check import check_models, render

        report = check_models(self.folder)
        print(render(report))
        return 0 if report.complete else 1
