"""The commands of conversion; work is imported inside `run`, so that naming a command costs nothing."""

from d2r_fast.engine.command import Command
from d2r_fast.engine.formats.config import ConvertConfig, MergeConfig, SplitConfig, SubsetConfig


class Convert(ConvertConfig, Command):
    """Write the images of a source in another form, each file byte for byte, with labels, names and licences."""

    def run(self) -> int:
        from d2r_fast.engine.formats.convert import convert

        return convert(self.settings())


class Merge(MergeConfig, Command):
    """Put several sources together into one, identities after identities."""

    def run(self) -> int:
        from d2r_fast.engine.formats.choose import merge

        return merge(self.settings())


class Split(SplitConfig, Command):
    """Cut a source into parts of whole identities, in order: OUT/part-00000 and so on."""

    def run(self) -> int:
        from d2r_fast.engine.formats.choose import split

        return split(self.settings())


class Subset(SubsetConfig, Command):
    """Keep some identities of a source, and some images of each."""

    def run(self) -> int:
        from d2r_fast.engine.formats.choose import subset

        return subset(self.settings())
