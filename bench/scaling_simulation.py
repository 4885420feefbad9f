"""What more GPUs give, and what breaks first: a simulation of workers, shared storage and the head node.

    python -m d2r_fast.bench.scaling_simulation bench/profiles/*.json
    python -m d2r_fast.bench.scaling_simulation bench/profiles/*.json --page docs/scaling.md    # between its markers

A worker reads ahead while its GPU computes, and writes behind it, as `generate` and `translate` do; it asks the head
node for a shard at a time by the rule of `engine.executors.hand_out`. Storage has one bandwidth and one rate of file
operations for all, first come first served. Not in it: failures, other people's jobs, caches.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from d2r_fast.bench.discrete_events import Box, Clockwork, Process, Server, Signal
from d2r_fast.bench.scaling_profile import Profile, read_profile
from d2r_fast.bench.table import fill_in
from d2r_fast.engine.files import write_atomic

GPUS = (1, 8, 64)
BEGIN, END = "<!-- scaling: begin -->", "<!-- scaling: end -->"
_START_PARTS = 64
"""Pieces in which a worker's start is read, so that those that start together share the storage."""
_STOP = -1
MOST_GPUS = 4096
ENOUGH = 0.9
"""Share of the time at work below which something is said to break."""
_INPUT_HEAD = ("| input | value | from |", "|---|---|---|")
_HEAD = (
    "| GPUs | images/s | whole run | over one | computing | starting | waiting | ended | storage bandwidth "
    "| file operations | head node |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Outcome:
    """A simulated run.

    Attributes:
        total_s: from the first start to the last shard on the disk.
        computing, starting, waiting, ended: shares of all GPUs' time in `total_s`: at work, before their first shard,
            for shards to be read or written, and with nothing left to do.
        storage, operations, head: shares of the time in which the storage's bandwidth, its file operations and the
            head node were taken.
    """

    num_gpus: int
    images_per_s: float
    total_s: float
    computing: float
    starting: float
    waiting: float
    ended: float
    storage: float
    operations: float
    head: float


@dataclass
class _Cluster:
    profile: Profile
    num_gpus: int
    clock: Clockwork = field(default_factory=Clockwork)
    left: int = 0

    def __post_init__(self) -> None:
        self.left = int(self.profile.num_shards.value)
        self.storage, self.operations, self.head = (Server(self.clock) for _ in range(3))
        self.workers = [_Worker(self) for _ in range(self.num_gpus)]

    def transfer(self, num_bytes: float, num_operations: float) -> Process:
        yield from self.operations.use(num_operations / self.profile.storage_operations_per_s.value)
        yield from self.storage.use(num_bytes / self.profile.storage_bytes_per_s.value)


class _Worker:
    """One GPU: a reader, the GPU and a writer, with room for a shard between them."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster, self._clock, self._profile = cluster, cluster.clock, cluster.profile
        self._read, self._computed = Box(self._clock), Box(self._clock)
        self._mine, self._written = 0, Signal()
        self.first_s: float | None = None
        self.computing_s = self.ended_s = 0.0
        for stage in (self._reader(), self._gpu(), self._writer()):
            self._clock.start(stage)

    def _reader(self) -> Process:
        num_bytes, num_operations = self._profile.start_bytes.value, self._profile.start_operations.value
        for _ in range(_START_PARTS if num_bytes or num_operations else 0):
            yield from self._cluster.transfer(num_bytes / _START_PARTS, num_operations / _START_PARTS)
        yield self._clock.now_s + self._profile.start_s.value
        images = self._profile.images_per_shard.value
        while True:
            # One that has a shard gets no more where others would soon have none: all are to end together.
            while self._mine and 0 < self._cluster.left < self._cluster.num_gpus:
                yield self._written
            if not self._cluster.left:
                break
            self._cluster.left -= 1
            self._mine += 1
            yield from self._cluster.head.use(self._profile.hand_out_s.value)
            yield from self._cluster.transfer(
                images * self._profile.bytes_in.value, images * self._profile.operations_in.value
            )
            yield from self._read.put(0)
        yield from self._read.put(_STOP)

    def _gpu(self) -> Process:
        shard = 0
        while shard != _STOP:
            yield from self._read.wait()
            shard = self._read.pop()
            if shard != _STOP:
                self.first_s = self._clock.now_s if self.first_s is None else self.first_s
                self.computing_s += self._profile.shard_s
                yield self._clock.now_s + self._profile.shard_s
            yield from self._computed.put(shard)

    def _writer(self) -> Process:
        num_bytes = self._profile.images_per_shard.value * self._profile.bytes_out.value
        while True:
            yield from self._computed.wait()
            if self._computed.pop() == _STOP:
                break
            yield from self._cluster.transfer(num_bytes, self._profile.operations_out.value)
            self.ended_s = self._clock.now_s
            self._mine -= 1
            self._clock.give(self._written)


def simulate(profile: Profile, num_gpus: int) -> Outcome:
    """Make the whole dataset on `num_gpus` GPUs, in simulated time."""
    cluster = _Cluster(profile, num_gpus)
    cluster.clock.run()
    workers = cluster.workers
    total_s = max(worker.ended_s for worker in workers)
    all_s = total_s * num_gpus
    starting_s = sum(total_s if worker.first_s is None else worker.first_s for worker in workers)
    ended_s = sum(total_s - worker.ended_s for worker in workers if worker.first_s is not None)
    computing_s = sum(worker.computing_s for worker in workers)
    return Outcome(
        num_gpus=num_gpus, total_s=total_s,
        images_per_s=profile.num_shards.value * profile.images_per_shard.value / total_s,
        computing=computing_s / all_s, starting=starting_s / all_s, ended=ended_s / all_s,
        waiting=max(0.0, (all_s - computing_s - starting_s - ended_s) / all_s),
        storage=cluster.storage.busy_s / total_s, operations=cluster.operations.busy_s / total_s,
        head=cluster.head.busy_s / total_s,
    )  # fmt: skip


def limits(profile: Profile) -> dict[str, float]:
    """GPUs that each shared part can keep at work, fewest first: what it has to give over what a GPU asks of it."""
    asked_s = {
        "the storage's bandwidth": profile.shard_bytes / profile.storage_bytes_per_s.value,
        "the storage's file operations": profile.shard_operations / profile.storage_operations_per_s.value,
        "the head node": profile.hand_out_s.value,
    }
    found = {name: profile.shard_s / seconds for name, seconds in asked_s.items() if seconds}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def first_break(profile: Profile, most_gpus: int = MOST_GPUS) -> tuple[Outcome, str] | None:
    """The first power of two of GPUs of which more than a tenth is lost, and to what; None up to `most_gpus`."""
    for num_gpus in (2**power for power in range(most_gpus.bit_length())):
        outcome = simulate(profile, num_gpus)
        if outcome.computing < ENOUGH:
            return outcome, _cause(profile, outcome)
    return None


def _cause(profile: Profile, outcome: Outcome) -> str:
    """What most of the time that GPUs do not compute is lost to."""
    most = max(outcome.starting, outcome.ended, outcome.waiting)
    if most == outcome.starting:
        return f"the start of the workers, {most:.0%} of a run of {_span(outcome.total_s)}"
    if most == outcome.ended:
        per_gpu = profile.num_shards.value / outcome.num_gpus
        return f"the number of shards, of which {per_gpu:.3g} come to a GPU"
    shares = {
        "the storage's bandwidth": outcome.storage, "the storage's file operations": outcome.operations,
        "the head node": outcome.head,
    }  # fmt: skip
    busiest = max(shares, key=lambda name: shares[name])
    return f"{busiest}, taken for {shares[busiest]:.0%} of the time"


def render(profile: Profile, gpus: Sequence[int] = GPUS) -> str:
    """Markdown: what goes in, what comes out, what breaks first."""
    outcomes = [simulate(profile, num_gpus) for num_gpus in gpus]
    alone = simulate(profile, 1)
    blocks = [
        f"### {profile.title}", "\n".join([*_INPUT_HEAD, *_input_rows(profile)]),
        "\n".join([*_HEAD, *(_row(outcome, alone) for outcome in outcomes)]), _verdict(profile),
    ]  # fmt: skip
    return "\n\n".join(blocks)


def _input_rows(profile: Profile) -> list[str]:
    fields = type(profile).model_fields
    return [
        f"| {fields[name].description} | {given.value:,.6g} | {given.how}: {given.note} |"
        for name, given in profile.inputs().items()
    ]


def _row(outcome: Outcome, alone: Outcome) -> str:
    shares = (
        outcome.computing, outcome.starting, outcome.waiting, outcome.ended, outcome.storage, outcome.operations,
        outcome.head,
    )  # fmt: skip
    cells = [
        f"{outcome.num_gpus:,}", f"{outcome.images_per_s:,.4g}", _span(outcome.total_s),
        f"{outcome.images_per_s / alone.images_per_s:.3g}x", *(f"{100 * share:.1f} %" for share in shares),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _verdict(profile: Profile) -> str:
    parts = [f"{name} for {gpus:,.0f}" for name, gpus in limits(profile).items()]
    sentences = [f"What is shared is enough for so many GPUs: {', '.join(parts)}."] if parts else []
    broken = first_break(profile)
    if broken is None:
        sentences.append(f"Up to {MOST_GPUS:,} GPUs are at work for more than {ENOUGH:.0%} of the time.")
    else:
        outcome, cause = broken
        sentences.append(
            f"First to break: at {outcome.num_gpus:,} GPUs, which are at work for {outcome.computing:.0%} of the time, "
            f"{cause}."
        )
    core_s = profile.host_s.value / profile.cores_per_gpu.value if profile.cores_per_gpu.value else 0.0
    if core_s > profile.device_s.value:
        sentences.append(
            f"A GPU alone waits for its {profile.cores_per_gpu.value:g} cores already: it computes "
            f"{profile.device_s.value / core_s:.0%} of the time."
        )
    return "\n".join(sentences)


def _span(seconds: float) -> str:
    return f"{seconds / 3600:,.3g} h" if seconds >= 3600 else f"{seconds / 60:,.3g} min"


def main() -> None:
    """Print the tables, or put them into a page."""
    parser = argparse.ArgumentParser(prog="scaling_simulation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("profiles", type=Path, nargs="+", help="JSON files, as in bench/profiles")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS, help="numbers of GPUs to simulate")
    parser.add_argument("--page", type=Path, help="Markdown file to fill in between its markers")
    given = parser.parse_args()
    if min(given.gpus) < 1:
        parser.error(f"--gpus {min(given.gpus)}: give 1 or more")
    text = "\n\n".join(render(read_profile(path), given.gpus) for path in given.profiles)
    if given.page is None:
        print(text)
    else:
        write_atomic(given.page, fill_in(given.page.read_text(), text, begin=BEGIN, end=END).encode())


if __name__ == "__main__":
    main()
