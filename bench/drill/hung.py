"""A source whose read never returns: a pipe that nobody writes to, in the place of an image."""

import os
from functools import partial
from pathlib import Path

from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard, temporaries, tree
from d2r_fast.engine import patience

READ_WITHIN_S = 2.0
"""In place of minutes, so that the drill ends."""
LIMIT_S = 10.0


def drill(yard: Yard) -> list[Outcome]:
    """In the middle of a source; once the image is back the run goes on."""
    source = yard.source(num_identities=40, images=3)
    yard.done(yard.translate(source, yard.folder / "calm"))
    image, out = source / "00034" / "1.png", yard.folder / "out"
    whole = image.read_bytes()
    hang(image, yard.folder / "pipe")
    arguments = yard.translate(source, out, num_threads=2)
    ended = yard.run(arguments, prepare=partial(be_impatient, READ_WITHIN_S))
    finished = len(list(out.glob("*_stats.json")))
    image.unlink()
    image.write_bytes(whole)
    again = yard.run(arguments)
    same = tree(out) == tree(yard.folder / "calm")
    return [
        Outcome(
            fault="an image whose read never returns",
            wanted=f"the end within {LIMIT_S:g} s of the limit with status 1 and the image's name, finished shards "
            "kept, the rerun's bytes as without",
            found=f"{ended.seconds:.1f} s with a limit of {READ_WITHIN_S:g} s, status {ended.status}, "
            f"{finished} shards kept, {'the same bytes' if same else 'OTHER BYTES'} after",
            met=ended.status == 1 and finished > 0 and str(image) in ended.last_line
            and ended.seconds < READ_WITHIN_S + LIMIT_S
            and again.status == 0 and same and not temporaries(out),
            note=ended.last_line,
        )
    ]  # fmt: skip


def hang(image: Path, pipe: Path) -> None:
    """Puts the pipe in the image's place."""
    os.mkfifo(pipe)
    image.unlink()
    image.symlink_to(pipe)


def be_impatient(seconds: float) -> None:
    """Reads may take no longer in this process."""
    patience.READ_WITHIN_S = seconds
