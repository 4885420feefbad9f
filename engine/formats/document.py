"""What a conversion says of its result: dataset.json of a dataset, origin.json of the other forms.

It holds whatever the sources say of themselves, so that the networks, licences and terms of the images go with them.
"""

import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import d2r_fast
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.formats.config import Target
from d2r_fast.engine.formats.listing import Listing, Person
from d2r_fast.engine.marker import CONVERTED
from d2r_fast.engine.rows import tar_suffix
from d2r_fast.engine.source import is_image

IMAGES_PER_SHARD = 5_000
"""About as many, where nobody says how many identities: 25 to 500 MB of crops and portraits."""
PACKAGES = ("pyarrow", "webdataset")
_CONTROLS = frozenset(map(chr, (*range(32), 127)))


def describe(
    listing: Listing, *, to: Target, recipe: Mapping[str, Any], per_shard: int | None
) -> dict[str, Any]:
    """The result's document. `recipe` says how the images were chosen; a run that goes on comes to the same.

    Raises:
        UserError: there is no image, or a name cannot stand in every form.
    """
    digest, suffixes, wanted = _survey(listing)
    num_identities = len(listing.people)
    if not wanted:
        raise UserError(f"source {listing.name} holds no image: nothing to write")
    size = per_shard or max(1, IMAGES_PER_SHARD * num_identities // wanted)
    models = _models(listing.documents)
    return {
        "schema": 1,
        "kind": CONVERTED,
        "format": to,
        "recipe": {**recipe, "image_format": ";".join(sorted(suffixes))},
        "models": models,
        "models_kind": _models_kind(listing.documents),
        "source": {"name": listing.name, "fingerprint": digest, "num_identities": num_identities},
        "versions": {"d2r-fast": d2r_fast.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "licences": sorted({licence for each in listing.documents for licence in each.get("licences", [])}),
        "plan": {
            "num_identities": num_identities,
            "wanted": wanted,
            "identities_per_shard": size,
            "num_shards": -(-num_identities // size),
        },
        "made_from": list(listing.documents),
    }  # fmt: skip


def _survey(listing: Listing) -> tuple[str, set[str], int]:
    """Digest of all names in order, suffixes that occur, and how many images there are."""
    digest, suffixes, wanted = hashlib.sha256(), set(), 0
    for person in listing.people:
        names = list(_checked(person))
        digest.update("\0".join([person.name, *names]).encode() + b"/")
        suffixes |= {tar_suffix(name) for name in names}
        wanted += len(names)
    return digest.hexdigest(), suffixes, wanted


def _checked(person: Person) -> Iterator[str]:
    """Names of the images. What a line, a path or a tar cannot hold is refused."""
    if not person.name or "/" in person.name or _CONTROLS & set(person.name):
        raise UserError(
            f"identity {person.name!r} cannot be a folder or a line of a list: rename it, without '/' and control "
            "characters"
        )
    seen: set[str] = set()
    for entry in person:
        name = entry.name
        if not is_image(name) or "/" in name or _CONTROLS & set(name):
            raise UserError(f"image {name!r} of identity {person.name} is not named like an image: rename it")
        if name in seen:
            raise UserError(f"identity {person.name} has two images called {name}: rename one")
        seen.add(name)
        yield name


def _models(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Networks of all sources; where two of one name differ, the later have a number."""
    found: dict[str, Any] = {}
    for document in documents:
        for name, entry in document.get("models", {}).items():
            number, called = 1, name
            while called in found and found[called] != entry:
                number += 1
                called = f"{name} ({number})"
            found[called] = entry
    return found


def _models_kind(documents: Sequence[Mapping[str, Any]]) -> str | None:
    """random where some networks were untrained; None where no source says."""
    kinds = {document.get("models_kind") for document in documents} - {None}
    return "random" if "random" in kinds else kinds.pop() if kinds else None
