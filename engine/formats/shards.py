"""Writing people as a dataset of ours: shards of tars or folders, with tables and markers."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

from d2r_fast.engine.console import Meter
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.formats.contents import contents
from d2r_fast.engine.formats.listing import Listing, Person
from d2r_fast.engine.marker import image_key
from d2r_fast.engine.rows import ConvertedRow, IdentityRow
from d2r_fast.engine.write import check_names, write_shard


def write_dataset(out: Path, listing: Listing, document: dict[str, Any]) -> None:
    """Write the shards that `out` lacks of the dataset that `document` describes.

    Raises:
        UserError, RunError: as Dataset.open and write_shard do; an image cannot be read.
    """
    check_names([person.name for person in listing.people], format=document["format"])
    plan = document["plan"]
    with Dataset.open(out, document) as dataset, Meter("convert", total=plan["wanted"]) as meter:
        dataset.begin()
        if dataset.unfinished:
            dataset.log("start", source=str(listing.roots[0].resolve()), device="cpu")
        for shard in dataset.unfinished:
            started_s = time.monotonic()
            first = shard * plan["identities_per_shard"]
            people = listing.people[first : first + plan["identities_per_shard"]]
            marker = _write(dataset, shard, dict(enumerate(people, first)))
            stage_s = {"write": time.monotonic() - started_s}
            dataset.log("shard", shard=shard, stage_s=stage_s, images=marker["wanted"])
            meter.advance(marker["wanted"])
        dataset.finish()


def _write(dataset: Dataset, shard: int, people: dict[int, Person]) -> dict[str, Any]:
    """Write one shard: its people by label."""
    rows, images = [], {}
    places = [(label, person, image) for label, person in people.items() for image in range(len(person))]
    entries = (entry for person in people.values() for entry in person)
    with closing(contents(entries)) as found:
        for (label, person, image), (entry, data) in zip(places, found, strict=True):
            key = image_key(label, image)
            images[key] = data
            rows.append(
                ConvertedRow(
                    key=key, label=label, identity=person.name, image=image, status="written", source=entry.name,
                    record=entry.record,
                )
            )  # fmt: skip
    identities = [
        IdentityRow(
            label=label, identity=person.name, sources=[entry.name for entry in person], status="used",
        )
        for label, person in people.items()
    ]  # fmt: skip
    return write_shard(
        dataset.folder, shard, rows=rows, images=images, identities=identities, errors=[],
        format=dataset.document["format"], image_format=dataset.document["recipe"]["image_format"],
    )  # fmt: skip
