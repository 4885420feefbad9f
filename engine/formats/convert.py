"""The `convert` command, and what the others share: a listing of people, written in the wanted form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2r_fast.engine.console import say
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import check_out
from d2r_fast.engine.formats.config import ConvertConfig, Written
from d2r_fast.engine.formats.contents import leave_out
from d2r_fast.engine.formats.document import describe
from d2r_fast.engine.formats.folder import open_folder
from d2r_fast.engine.formats.listing import Listing, open_listing
from d2r_fast.engine.formats.record_set import write_records
from d2r_fast.engine.formats.shards import write_dataset
from d2r_fast.engine.formats.table_set import write_tables


def convert(config: ConvertConfig) -> int:
    """Write the source in another form.

    Raises:
        UserError: the source or a setting cannot be used, an image cannot be read, or `out` holds something else.
        RunError: the disk is full, or another process has `out`.
    """
    if config.pairs is not None:
        from d2r_fast.engine.formats.pair_set import write_pairs

        check_out(config.out, inputs=[config.source, config.pairs])
        num_pairs = write_pairs(config.out, open_listing(config.source), config.pairs)
        say(f"{num_pairs:,} pairs: {config.out}")
        return 0
    write(open_listing(config.source), config, {"command": "convert"})
    return 0


def write(listing: Listing, config: Written, recipe: Mapping[str, Any], *, out: Path | None = None) -> None:
    """Write people in the form that `config` wants; `recipe` says how they were chosen.

    Args:
        out: where, if not `config.out`.

    Raises:
        UserError, RunError: as convert does.
    """
    folder = out or config.out
    for root in listing.roots:
        check_outside(root, folder)
    lost: list[str] = []
    if config.max_unreadable:
        listing, lost = leave_out(listing, at_most=config.max_unreadable)
    own = {"layout": config.layout, "seed": config.seed} if config.to == "recordio" else {}
    whole = {**recipe, **own, **({"left_out": lost} if lost else {})}
    document = describe(listing, to=config.to, recipe=whole, per_shard=config.identities_per_shard)
    if config.to in ("webdataset", "imagefolder"):
        write_dataset(folder, listing, document)
    else:
        with open_folder(folder, document, [person.name for person in listing.people]) as unfinished:
            if unfinished:
                (write_records if config.to == "recordio" else write_tables)(folder, listing, document)
    say(f"{document['plan']['wanted']:,} images of {len(listing.people):,} identities: {folder}")
    for name in lost:
        say(f"left out: {name}")


def check_outside(source: Path, out: Path) -> None:
    """See that the result would not lie in its source, or the source in it.

    Raises:
        UserError: it would.
    """
    ours, theirs = out.resolve(), source.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise UserError(f"out {out} and the source {source} lie in one another: give a folder beside it")
