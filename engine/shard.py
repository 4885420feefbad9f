"""A shard in the making: its identities, the images that it still waits for, and what goes into its files.

A shard is a pure function of (recipe, models, source, the identities in it): rows and problems are put in the
order of the plan, whatever the order in which images were finished.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from d2r_fast.engine.config import Recipe
from d2r_fast.engine.marker import image_key
from d2r_fast.engine.person import Meeting, Person
from d2r_fast.engine.plan import Job
from d2r_fast.engine.rows import IdentityRow, ImageRow, Problem

Report = Callable[[ImageRow], None]
"""Told of each image as its fate is known."""


@dataclass
class Shard:
    """Everything a shard holds, in memory: some kB per image.

    Attributes:
        number: of the shard, from 0.
        people: identities that can be made, by label.
        images: encoded crops by key.
    """

    number: int
    recipe: Recipe
    report: Report
    people: dict[int, Person] = field(default_factory=dict)
    identities: list[IdentityRow] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    _rows: list[ImageRow] = field(default_factory=list)
    _problems: list[Problem] = field(default_factory=list)
    _rejections: list[Problem] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the fate of every wanted image is known."""
        return len(self._rows) == len(self.identities) * self.recipe.images_per_identity

    @property
    def rows(self) -> list[ImageRow]:
        """A row for every wanted image, in the order of (label, image)."""
        return sorted(self._rows, key=lambda row: (row.label, row.image))

    @property
    def problems(self) -> list[Problem]:
        """What went wrong: with identities in their order, then with images in theirs."""
        return self._problems + sorted(self._rejections, key=lambda problem: problem.key)

    def add(self, meeting: Meeting) -> list[Job]:
        """Takes an identity in; its images, or none where it cannot be made."""
        self.identities.append(meeting.row)
        self._problems += meeting.problems
        if meeting.person is None:
            self._fail(meeting.row)
            return []
        self.people[meeting.row.label] = meeting.person
        return meeting.person.jobs(self.recipe)

    def keep(self, row: ImageRow, image: bytes) -> None:
        """Takes an accepted image in."""
        self.images[row.key] = image
        self._settle(row)

    def reject(self, row: ImageRow, reason: str) -> None:
        """Records an image that no attempt could make."""
        self._rejections.append(
            Problem(stage="accept", identity=row.identity, key=row.key, error="Rejected", reason=reason)
        )
        self._settle(replace(row, reason=reason))

    def _fail(self, identity: IdentityRow) -> None:
        """Records every wanted image of an identity that cannot be made."""
        for image in range(self.recipe.images_per_identity):
            self._settle(
                ImageRow(
                    key=image_key(identity.label, image), label=identity.label, identity=identity.identity,
                    image=image, status="failed", reason=identity.reason,
                )
            )  # fmt: skip

    def _settle(self, row: ImageRow) -> None:
        self._rows.append(row)
        self.report(row)


def describe(job: Job, person: Person) -> ImageRow:
    """The record of an image so far: which latent it was drawn from, how often, and not written."""
    return ImageRow(
        key=job.key, label=job.label, identity=job.identity, image=job.image, status="rejected",
        source=person.sources[job.latent], latent=job.latent, t=float(person.t[job.latent]), attempts=job.attempt + 1,
    )  # fmt: skip
