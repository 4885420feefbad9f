"""SIGKILL at random moments of one run, until it has been hit so many times; then it ends by itself.

At every kill all that has its final name is compared with a run that nothing disturbed.
"""

import hashlib
import json
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from d2r_fast.bench.drill.outcome import Outcome
from d2r_fast.bench.drill.yard import Yard, files, is_part, temporaries, tree

FIRST_S = 0.3
"""Longest wait before the first kill; later ones follow what the run gets done in it."""


@dataclass
class Witness:
    """What was seen of a folder at its kills, beside an undisturbed one's files."""

    expected: dict[str, str]
    early: set[str] = field(default_factory=set)
    """Names that were seen with other contents than their final ones."""
    markers: set[str] = field(default_factory=set)
    """Markers that were seen before their shard was whole."""
    rewritten: set[str] = field(default_factory=set)
    """Files of finished shards that were written again."""
    num_finished: int = 0
    """Shards that were finished at the last look."""
    _known: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _finished: set[str] = field(default_factory=set)

    def look(self, folder: Path) -> None:
        """Compares what lies in the folder now."""
        if not folder.is_dir():
            return
        present = {name: entry for name, entry in files(folder) if is_part(name) and not name.startswith(".")}
        for name, entry in present.items():
            stat = entry.stat()
            found = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if self._known.get(name) != found:
                if name[:5] in self._finished:
                    self.rewritten.add(name)
                if hashlib.sha256(Path(entry.path).read_bytes()).hexdigest() != self.expected.get(name):
                    self.early.add(name)
                self._known[name] = found
        for name in present:
            if name.endswith("_stats.json") and name[:5] not in self._finished:
                self._finish(folder, name)
        self.num_finished = len(self._finished)

    def _finish(self, folder: Path, marker: str) -> None:
        try:
            listed = json.loads((folder / marker).read_bytes())["files"]
            whole = all(
                hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
                for name, entry in listed.items()
            )
        except (ValueError, LookupError, TypeError, OSError):
            whole = False
        if not whole:
            self.markers.add(marker)
        self._finished.add(marker[:5])


def drill(yard: Yard) -> list[Outcome]:
    """200 kills over 120 shards."""
    return [kill(yard, num_kills=12 if yard.quick else 200, num_shards=100 if not yard.quick else 16)]


def kill(yard: Yard, *, num_kills: int, num_shards: int) -> Outcome:
    """Kills a run of `num_shards` shards `num_kills` times, and lets it end."""
    rng = yard.rng("kills")
    source = yard.source(num_identities=num_shards, images=2)
    yard.done(yard.translate(source, yard.folder / "calm"))
    expected = tree(yard.folder / "calm")
    kills = folders = strays = 0
    differing: set[str] = set()
    longest_s, seen = FIRST_S, Witness(expected)
    while kills < num_kills or folders == 0:
        out, witness = yard.folder / f"killed-{folders}", Witness(expected)
        while kills < num_kills and (ended := _run_and_kill(yard, source, out, rng, longest_s)):
            kills += 1
            before = witness.num_finished
            witness.look(out)
            longest_s = _next_wait(longest_s, witness.num_finished - before, num_shards / num_kills)
            strays += bool(ended and temporaries(out)) if out.is_dir() else 0
        yard.done(yard.translate(source, out))
        witness.look(out)
        found = tree(out)
        differing |= {name for name in {**found, **expected} if found.get(name) != expected.get(name)}
        differing |= set(temporaries(out))
        for name in ("early", "markers", "rewritten"):
            getattr(seen, name).update(getattr(witness, name))
        folders += 1
    faults = [*sorted(differing), *sorted(seen.early), *sorted(seen.markers), *sorted(seen.rewritten)]
    return Outcome(
        fault=f"SIGKILL at {kills} random moments",
        wanted="the same bytes in the end, 0 invalid markers at every kill, 0 temporary files left",
        found=f"{len(differing)} files differ or are left, {len(seen.markers)} invalid markers, "
        f"{len(seen.early)} files seen unfinished, {len(seen.rewritten)} written twice"
        + (f" (first: {faults[0]})" if faults else ""),
        met=not faults and kills >= num_kills,
        note=f"{len(expected)} files of {num_shards} shards, {folders} runs; {strays} kills hit a file half written",
    )


def _run_and_kill(yard: Yard, source: Path, out: Path, rng: np.random.Generator, longest_s: float) -> bool:
    """Starts the run, and kills it after up to `longest_s`; whether that ended it."""
    child = yard.start(yard.translate(source, out))
    _pause(out, rng.uniform(0, longest_s))
    child.send(signal.SIGKILL)
    ended = child.wait()
    assert ended.status in (0, 128 + signal.SIGKILL), ended.said[-2000:]
    return ended.status != 0


def _pause(out: Path, seconds: float) -> None:
    """Until the kill; `out` is what the run writes to."""
    time.sleep(seconds)


def _next_wait(longest_s: float, num_finished: int, wanted: float) -> float:
    """Longer where a run gets too few shards done before it is killed, so that kills are spread over all of them."""
    return min(max(longest_s * (1.05 if num_finished < wanted else 0.9), 0.01), 5.0)
