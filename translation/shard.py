"""A shard of a translated dataset in the making: the images it still waits for, and what goes into its files.

A shard is a pure function of (recipe, weights, source, the identities in it): rows and problems are put in the
order of the plan, whatever the order in which images were finished.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from d2r_fast.engine.marker import image_key
from d2r_fast.engine.rows import IdentityRow, Problem, TranslatedRow
from d2r_fast.engine.source import Identity, Image
from d2r_fast.kernels.noise import identity_key
from d2r_fast.translation.method import Size

Report = Callable[[TranslatedRow], None]
"""Told of each image as its fate is known."""
NO_IMAGES = "no images"


@dataclass(frozen=True, slots=True)
class Task:
    """One image that is to be translated.

    Attributes:
        shard: number of the shard it belongs to.
        key: `<label>_<image>`.
        identity_key: what noise is drawn by, together with `image`.
        image: its number among the identity's, in their natural order.
        source: where it lies.
    """

    shard: int
    key: str
    label: int
    identity_key: int
    image: int
    source: Image


@dataclass
class TranslatedShard:
    """Everything a shard holds, in memory: as much as its encoded images.

    Attributes:
        number: of the shard, from 0.
        seed: of the recipe.
        report: told of each image.
        images: encoded images by key.
    """

    number: int
    seed: int
    report: Report
    identities: list[IdentityRow] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    _rows: list[TranslatedRow] = field(default_factory=list)
    _problems: list[Problem] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the fate of every image is known."""
        return len(self._rows) == sum(len(identity.sources) for identity in self.identities)

    @property
    def rows(self) -> list[TranslatedRow]:
        """A row for every image, in the order of (label, image)."""
        return sorted(self._rows, key=lambda row: (row.label, row.image))

    @property
    def problems(self) -> list[Problem]:
        """What went wrong; `write_shard` puts it in order."""
        return self._problems

    def add(self, label: int, identity: Identity) -> Iterator[Task]:
        """Takes an identity in; its images."""
        images = list(identity.images)
        reason = None if images else NO_IMAGES
        self.identities.append(
            IdentityRow(
                label=label, identity=identity.name, sources=[image.name for image in images],
                status="used" if images else "failed", reason=reason,
            )
        )  # fmt: skip
        if not images:
            self._problems.append(
                Problem(stage="plan", identity=identity.name, key=identity.name, error="UnusableIdentity",
                        reason=NO_IMAGES)
            )  # fmt: skip
        key = identity_key(self.seed, identity.name)
        return (
            Task(self.number, image_key(label, number), label, key, number, image)
            for number, image in enumerate(images)
        )

    def keep(self, task: Task, image: bytes, size: Size) -> None:
        """Takes a finished image in."""
        self.images[task.key] = image
        self._settle(_row(task, size, None))

    def fail(self, task: Task, *, stage: str, error: str, reason: str, size: Size | None) -> None:
        """Records an image that could not be translated."""
        self._problems.append(
            Problem(
                stage=stage, identity=task.source.identity, key=task.source.name, error=error, reason=reason
            )
        )
        self._settle(_row(task, size, reason))

    def _settle(self, row: TranslatedRow) -> None:
        self._rows.append(row)
        self.report(row)


def _row(task: Task, size: Size | None, reason: str | None) -> TranslatedRow:
    height, width = size or (None, None)
    return TranslatedRow(
        key=task.key, label=task.label, identity=task.source.identity, image=task.image,
        status="failed" if reason else "written", reason=reason, source=task.source.name, height=height, width=width,
    )  # fmt: skip
