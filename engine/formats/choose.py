"""The commands `merge`, `split` and `subset`: which people there are, and which of their images."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.config import MergeConfig, SameNames, SplitConfig, SubsetConfig
from d2r_fast.engine.formats.convert import write
from d2r_fast.engine.formats.listing import Listing, Part, Person, open_listing


def merge(config: MergeConfig) -> int:
    """Put the sources together.

    Raises:
        UserError: two have identities of one name and nobody said what they are; or as convert does.
        RunError: as convert does.
    """
    listings = [open_listing(path) for path in config.sources]
    people = join(listings, same_names=config.same_names)
    documents = [document for listing in listings for document in listing.documents]
    name = " + ".join(listing.name for listing in listings)
    merged = Listing(name, people, documents, config.sources)
    write(merged, config, {"command": "merge", "same_names": config.same_names})
    return 0


def join(listings: Sequence[Listing], *, same_names: SameNames) -> list[Person]:
    """People of all listings, one after the other.

    Raises:
        UserError: two are called alike, and that is not allowed.
    """
    if same_names == "prefix":
        return _prefixed(listings)
    parts: dict[str, list[Person]] = {}
    for listing in listings:
        for person in listing.people:
            parts.setdefault(person.name, []).append(person)
    twice = [name for name, found in parts.items() if len(found) > 1]
    if twice and same_names == "refuse":
        raise UserError(
            f"identity {twice[0]} is in several sources ({len(twice):,} such names): say by --same-names whether they "
            "are one person (join) or not (prefix)"
        )
    return [_joined(name, found) for name, found in parts.items()]


def _prefixed(listings: Sequence[Listing]) -> list[Person]:
    names = Counter(listing.name for listing in listings)
    if len(names) < len(listings):
        raise UserError(
            f"two sources are called {names.most_common(1)[0][0]}, which cannot tell their identities apart: rename one"
        )
    return [
        Person(f"{listing.name}-{person.name}", person.parts)
        for listing in listings
        for person in listing.people
    ]


def _joined(name: str, people: Sequence[Person]) -> Person:
    """One person of several; images that are called like an earlier one get the number of their source."""
    if len(people) == 1:
        return people[0]
    parts: list[Part] = []
    taken: set[str] = set()
    for number, person in enumerate(people, start=1):
        for part in person.parts:
            entries = list(part)
            names = [_free(each.name, number, taken) for each in entries]
            parts.append(Part(part.source, part.images, names, [each.record for each in entries]))
    return Person(name, tuple(parts))


def _free(name: str, number: int, taken: set[str]) -> str:
    """A name that nothing has yet, which it takes."""
    while name in taken:
        name = f"{number}-{name}"
    taken.add(name)
    return name


def split(config: SplitConfig) -> int:
    """Write the parts, one after the other; running it again goes on where it was.

    Raises:
        UserError: there are more parts than identities; or as convert does.
        RunError: as convert does.
    """
    listing = open_listing(config.source)
    spans = list(cut(len(listing.people), parts=config.parts, per_part=config.identities_per_part))
    for number, span in enumerate(spans):
        part = Listing(listing.name, listing.people[span.start : span.stop], listing.documents, listing.roots)
        recipe = {"command": "split", "part": number, "parts": len(spans)}
        write(part, config, recipe, out=config.out / f"part-{number:05d}")
    return 0


def cut(num_identities: int, *, parts: int | None, per_part: int | None) -> Iterator[range]:
    """Identities of each part: `parts` that differ by one at most, or `per_part` in each but the last.

    Raises:
        UserError: a part would be empty.
    """
    if per_part is not None:
        for first in range(0, num_identities, per_part):
            yield range(first, min(first + per_part, num_identities))
        return
    assert parts is not None, "checked by the configuration"
    if parts > num_identities:
        raise UserError(f"--parts {parts:,}: there are {num_identities:,} identities, give at most that")
    for number in range(parts):
        yield range(number * num_identities // parts, (number + 1) * num_identities // parts)


def subset(config: SubsetConfig) -> int:
    """Write some of the people, and some images of each.

    Raises:
        UserError: the source has no such people; or as convert does.
        RunError: as convert does.
    """
    listing = open_listing(config.source)
    people = pick(listing, config.identities, top=config.top)
    if config.images is not None:
        people = [person.first(config.images) for person in people]
    recipe = {"command": "subset", "images": config.images}
    write(Listing(listing.name, people, listing.documents, listing.roots), config, recipe)
    return 0


def pick(listing: Listing, wanted: str, *, top: int | None = None) -> list[Person]:
    """The first people, `wanted` a number; or those that the file `wanted` names, in its order.

    Raises:
        UserError: there are fewer, or not all of the names.
    """
    if wanted.isdecimal():
        return _first(listing.people, int(wanted), what=listing.name)
    path = Path(wanted)
    names = read_names(path)
    by_name = {person.name: person for person in listing.people}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UserError(
            f"{path} names {len(missing):,} identities that {listing.name} does not have, such as {missing[0]!r}: give "
            "those of this source"
        )
    people = [by_name[name] for name in names]
    return people if top is None else _first(people, top, what=str(path))


def _first(people: Sequence[Person], num: int, *, what: str) -> list[Person]:
    if not 1 <= num <= len(people):
        raise UserError(f"{num:,} identities of {what}: it has {len(people):,}, give 1 to that many")
    return list(people[:num])


def read_names(path: Path) -> list[str]:
    """Identities that a file names: a line each, or the column `identity` of a ranking.

    Raises:
        UserError: no such file, no name in it, or one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise UserError(
            f"identities {path} is no number and cannot be read ({reason}): give a number, or a file of names"
        ) from None
    if lines and lines[0].split(",")[:2] == ["rank", "identity"]:
        from d2r_fast.engine.rank import read_ranking  # which imports torch

        return read_ranking(path)
    names = [line for line in lines if line]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice or not names:
        found = f"names {twice[0]!r} more than once" if twice else "names no identity"
        raise UserError(f"{path} {found}: give each once, a line for each")
    return names
