"""The benchmarks of a folder: which there are, where they are looked for, and how each is measured.

NAME.bin                             verification sets (lfw, calfw, cplfw, ...), under any name
IJBB/ or ijbb/, IJBC/ or ijbc/       meta and loose_crop in it
RFW/ or rfw/                         txts and data in it or in its folder test; or <Race>_test.bin, there or
                                     beside the other .bin files
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.readers.plain import PlainReader
from d2r_fast.engine.readers.reader import Reader
from d2r_fast.recognition.evaluation.bin_file import read_bin
from d2r_fast.recognition.evaluation.embed_crops import Embed
from d2r_fast.recognition.evaluation.fusion import Fusion
from d2r_fast.recognition.evaluation.ijb import IjbFiles, read_ijb
from d2r_fast.recognition.evaluation.pairs import Pairs, pairs_of_bin, verify_pairs
from d2r_fast.recognition.evaluation.results import RACES, SuiteResult, by_fusion, choose_fusion
from d2r_fast.recognition.evaluation.rfw import RfwFolder, read_rfw
from d2r_fast.recognition.evaluation.verify_ijb import verify_ijb

SUITES = ("lfw", "calfw", "cplfw", "agedb_30", "cfp_fp", "cfp_ff", "vgg2_fp", "ijbb", "ijbc", "rfw")
"""Known benchmarks in the order of reports; other .bin files follow by name."""
_IJB = ("ijbb", "ijbc")


@dataclass(frozen=True)
class Settings:
    """What decides a result beside the network and the benchmark, and how much is done at once."""

    flip: bool
    fusion: Fusion
    batch_size: int
    max_unreadable: int
    reader: Reader = field(default_factory=PlainReader)


@dataclass(frozen=True)
class Suite:
    """A benchmark that is there."""

    name: str

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that say what is compared with what."""

    def image_folders(self) -> list[Path]:
        """Folders of photographs, where these are files of their own."""
        return []

    def decided_by(self, settings: Settings) -> dict[str, Any]:
        """The settings that decide its result."""
        return {"flip": settings.flip}

    def answers(self, result: SuiteResult, settings: Settings) -> bool:
        """Whether a finished result holds what is asked for."""
        return True

    def as_asked(self, result: SuiteResult, settings: Settings) -> SuiteResult:
        """A result that these settings decide as well, as they show it."""
        return result

    @abstractmethod
    def measure(self, embed: Embed, settings: Settings) -> SuiteResult:
        """Run it on a network.

        Raises:
            UserError: its files cannot be used.
            RunError: the network fails.
        """


@dataclass(frozen=True)
class BinSuite(Suite):
    path: Path

    def files(self) -> list[Path]:
        return [self.path]

    def measure(self, embed: Embed, settings: Settings) -> SuiteResult:
        pairs = pairs_of_bin(read_bin(self.path), source=str(self.path))
        return _verify(pairs, embed, self.name, settings)


@dataclass(frozen=True)
class IjbSuite(Suite):
    parts: IjbFiles

    def files(self) -> list[Path]:
        return [self.parts.landmarks, self.parts.media, self.parts.pairs]

    def image_folders(self) -> list[Path]:
        return [self.parts.images]

    def decided_by(self, settings: Settings) -> dict[str, Any]:
        return {"flip": settings.fusion.flip}

    def answers(self, result: SuiteResult, settings: Settings) -> bool:
        return str(settings.fusion) in by_fusion(result)

    def as_asked(self, result: SuiteResult, settings: Settings) -> SuiteResult:
        return choose_fusion(by_fusion(result), str(settings.fusion))

    def measure(self, embed: Embed, settings: Settings) -> SuiteResult:
        return verify_ijb(
            read_ijb(self.parts), embed, suite=self.name, fusion=settings.fusion,
            batch_size=settings.batch_size, max_unreadable=settings.max_unreadable, reader=settings.reader,
        )  # fmt: skip


@dataclass(frozen=True)
class RfwSuite(Suite):
    """RFW as photographs with landmarks, or as one .bin file per race."""

    source: RfwFolder | dict[str, Path]

    def files(self) -> list[Path]:
        if isinstance(self.source, dict):
            return list(self.source.values())
        return [path for race in RACES for path in (self.source.pairs(race), self.source.landmarks(race))]

    def image_folders(self) -> list[Path]:
        return [] if isinstance(self.source, dict) else [self.source.images(race) for race in RACES]

    def measure(self, embed: Embed, settings: Settings) -> SuiteResult:
        """The mean over the races, and their population standard deviation (Digi2Real, Table 7).

        Unreadable images count over all four together.
        """
        races: dict[str, SuiteResult] = {}
        left = settings.max_unreadable
        for race in RACES:
            races[race] = _verify(self._pairs(race), embed, race, replace(settings, max_unreadable=left))
            left -= races[race].num_unreadable
        accuracies = [found.accuracy for found in races.values() if found.accuracy is not None]
        return SuiteResult(
            suite=self.name,
            accuracy=fmean(accuracies),
            std=pstdev(accuracies),
            num_genuine=sum(found.num_genuine for found in races.values()),
            num_impostor=sum(found.num_impostor for found in races.values()),
            num_unreadable=sum(found.num_unreadable for found in races.values()),
            races=races,
            seconds=sum(found.seconds for found in races.values()),
        )

    def _pairs(self, race: str) -> Pairs:
        if isinstance(self.source, RfwFolder):
            return read_rfw(self.source, race)
        return pairs_of_bin(read_bin(self.source[race]), source=str(self.source[race]))


def find_suites(benchmarks: Path, names: Sequence[str] = ()) -> list[Suite]:
    """The named benchmarks of a folder, in that order; without names all that are there, in the order of reports.

    Raises:
        UserError: no such folder, no benchmark in it, or not one that is named; RFW without one of the races, unless
            others are named.
    """
    if not benchmarks.is_dir():
        raise UserError(
            f"benchmarks {benchmarks} is no folder: give the one that holds lfw.bin, IJBC/, RFW/ ..."
        )
    there = _all_suites(benchmarks, whole_rfw=not names or "rfw" in names)
    absent = [name for name in names if name not in there]
    if absent or not there:
        wanted = ", ".join(absent or ["benchmark"])
        looked = "; ".join(_places(name) for name in absent) or "NAME.bin, IJBB/, IJBC/, RFW/"
        raise UserError(
            f"{benchmarks} has no {wanted} (looked for {looked}): put it there, or choose with --suite from "
            f"what is there ({', '.join(there) or 'nothing'})"
        )
    return [there[name] for name in names or there]


def _all_suites(benchmarks: Path, *, whole_rfw: bool) -> dict[str, Suite]:
    bins = {path.stem: path for path in sorted(benchmarks.glob("*.bin")) if path.is_file()}
    races = {f"{race}_test" for race in RACES}
    found: dict[str, Suite] = {name: BinSuite(name, path) for name, path in bins.items() if name not in races}
    for name in _IJB:
        for folder in (benchmarks / name.upper(), benchmarks / name):
            if (folder / "meta").is_dir():
                found[name] = IjbSuite(name, IjbFiles(name, folder))
                break
    rfw = _find_rfw(benchmarks, whole=whole_rfw)
    if rfw is not None:
        found["rfw"] = RfwSuite("rfw", rfw)
    others = sorted(set(found) - set(SUITES))
    return {name: found[name] for name in (*SUITES, *others) if name in found}


def _find_rfw(benchmarks: Path, *, whole: bool) -> RfwFolder | dict[str, Path] | None:
    """Where RFW is; of some races alone it is nowhere, which is refused where the `whole` is wanted."""
    for name, inner in product(("RFW", "rfw"), ("test", ".")):
        folder = benchmarks / name / inner
        if (folder / "txts").is_dir():
            return RfwFolder(folder)
    for folder in (benchmarks / "RFW", benchmarks / "rfw", benchmarks):
        files = {race: folder / f"{race}_test.bin" for race in RACES}
        lacking = [path.name for path in files.values() if not path.is_file()]
        if not lacking:
            return files
        if len(lacking) < len(RACES) and whole:
            raise UserError(f"{folder} lacks {', '.join(lacking)}: RFW is the mean over four races, get all")
    return None


def _places(name: str) -> str:
    if name in _IJB:
        return f"{name.upper()}/meta or {name}/meta"
    return "RFW/test/txts, RFW/txts or <Race>_test.bin" if name == "rfw" else f"{name}.bin"


def _verify(pairs: Pairs, embed: Embed, name: str, settings: Settings) -> SuiteResult:
    return verify_pairs(
        pairs, embed, suite=name, flip=settings.flip, batch_size=settings.batch_size,
        max_unreadable=settings.max_unreadable, reader=settings.reader,
    )  # fmt: skip
