"""Which shards of a dataset this run is to make: all, those it was told, or its share of a SLURM array."""

import os
from collections.abc import Mapping

from d2r_fast.engine.config import Execution
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import UserError

ARRAY = "SLURM_ARRAY_TASK_"


def find_share(
    execution: Execution, num_shards: int, environment: Mapping[str, str] = os.environ
) -> range | None:
    """The shards to make; None for all, an empty range where a SLURM array has more tasks than there are shards.

    A share of an array is said in a line.

    Raises:
        UserError: there are not so many shards, or the array's numbers leave gaps.
    """
    if execution.shards not in (None, "all"):
        first, stop = (int(part) for part in execution.shards.split(":"))
        if stop > num_shards:
            raise UserError(
                f"shards = {execution.shards}: there are {num_shards}, give at most 0:{num_shards}"
            )
        return range(first, stop)
    if execution.shards == "all" or execution.executor == "ray" or ARRAY + "ID" not in environment:
        return None
    place, count = _place(environment)
    share = range(num_shards * place // count, num_shards * (place + 1) // count)
    mine = f"shards {share.start}:{share.stop}" if share else "no shard"
    say(
        f"SLURM array task {environment[ARRAY + 'ID']}, number {place + 1} of {count}: makes {mine} of {num_shards}; "
        "--shards all makes all"
    )
    return share


def _place(environment: Mapping[str, str]) -> tuple[int, int]:
    """Which of the array's tasks this is, from 0, and how many there are."""
    names = [ARRAY + name for name in ("ID", "MIN", "COUNT", "STEP")]
    texts = [environment.get(name, "1" if name.endswith("STEP") else "") for name in names]
    if not all(text.isdecimal() for text in texts) or int(texts[2]) < 1 or int(texts[3]) < 1:
        shown = ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))
        raise UserError(f"the SLURM array's variables are no numbers ({shown}): give --shards A:B")
    task, first, count, step = map(int, texts)
    place, rest = divmod(task - first, step)
    if rest or not 0 <= place < count:
        raise UserError(
            f"SLURM array task {task} of {count} from {first} by {step}: its numbers leave gaps, so shares cannot be "
            "told: give --array a plain range as 0-7, or --shards A:B"
        )
    return place, count
