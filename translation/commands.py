"""The commands of translation; work is imported inside `run`, so that naming a command costs nothing."""

from pathlib import Path

from d2r_fast.engine.command import Command
from d2r_fast.translation.compare.config import CompareConfig
from d2r_fast.translation.config import TranslateConfig
from d2r_fast.translation.training.config import TransferConfig


class Translate(TranslateConfig, Command):
    """Make a dataset from a folder of renders by translating each towards photographs, as Syn2Auth does.

    One image in, one image out, under its own name and in its own size.
    """

    config: Path | None = None
    """YAML file of settings, named as the flags with underscores."""

    def run(self) -> int:
        from d2r_fast.translation.translate import translate

        return translate(self.settings())


class TrainTransfer(TransferConfig, Command):
    """Train vsait, decent or unsb on two folders of images that do not pair; no label is used.

    What is left out is as published. A stopped run with the same recipe goes on where it was.
    """

    config: Path | None = None
    """YAML file of settings, named as the flags with underscores."""

    def run(self) -> int:
        from d2r_fast.translation.training.train_transfer import train_transfer

        return train_transfer(self.settings())


class Compare(CompareConfig, Command):
    """Translate the same images by several methods, and write a page: pictures, seconds, identity kept, distance to
    photographs."""

    def run(self) -> int:
        from d2r_fast.translation.compare.compare import compare

        return compare(self.settings())
