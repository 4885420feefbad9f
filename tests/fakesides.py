"""Work that does not end, side by side, in a process that a test kills; it prints which processes do it.

python -m tests.fakesides
"""

import os
import time
from concurrent.futures import Executor
from multiprocessing import active_children

from d2r_fast.bench.miniature.processes import side_by_side

LONG_S = 600.0


def begin_for_long(pool: Executor) -> list[int]:
    """Work for every process; their numbers."""
    pool.submit(os.getpid).result()  # they are there
    for _ in active_children():
        pool.submit(time.sleep, LONG_S)
    return [child.pid for child in active_children() if child.pid is not None]


if __name__ == "__main__":
    with side_by_side("cpu") as pool:
        print(*begin_for_long(pool), flush=True)
        time.sleep(LONG_S)
