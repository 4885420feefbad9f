"""What a run found in its source, by shard: a worker elsewhere lists what it makes alone, and sees that it is the same.

So a million renders in folders are listed once by the process that leads a run, and once by all its workers together.
"""

import os
from collections.abc import Sequence

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.source import Identity, fingerprint

Digests = tuple[bytes, ...]
"""SHA-256 by number of shard."""


def digest_shards(members: Sequence[Identity], identities_per_shard: int) -> Digests:
    """Of the names of each shard's identities and of their images, in order."""
    firsts = range(0, len(members), identities_per_shard)
    return tuple(_digest(members[first : first + identities_per_shard]) for first in firsts)


def check_listed(shard: int, members: Sequence[tuple[int, Identity]], digests: Digests) -> None:
    """See that this process finds in its source what the run did in a shard; `members` have their labels.

    Raises:
        UserError: it finds other names.
    """
    found = [identity for _, identity in members]
    if _digest(found) != digests[shard]:
        raise UserError(
            f"{os.uname().nodename} finds other images of identities {found[0].name} to {found[-1].name} than the run "
            "began with: give it the same source, leave that as it is, and run the same command again"
        )


def _digest(members: Sequence[Identity]) -> bytes:
    return bytes.fromhex(fingerprint(members))
