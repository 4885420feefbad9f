"""`translate` by every method, against the method's public program and against its own networks alone; training too.

Networks are the published shapes with random weights (mini ones with --size mini). Everything is opened, and hashed for
the dataset's description, before a clock starts. Of a method, its backends are tried first. `translate` by the fastest
then takes turns with the public-style loop, and after that with its own networks alone on images that are in memory
already: a pair for each question, for beside a loop of a minute there is time for two rounds, and whoever follows it
finds its caches cold.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from d2r_fast.bench.context import Bench
from d2r_fast.bench.drawings import draw_noise
from d2r_fast.bench.measure import Arm, Ratio, compare, interleave
from d2r_fast.bench.plain_transfer import transfer_arms
from d2r_fast.bench.plain_translation import EagerNetwork, PlainTranslation
from d2r_fast.bench.published import PUBLISHED, do_dead_work
from d2r_fast.bench.record import Found
from d2r_fast.bench.targets import target
from d2r_fast.engine.backends.network import first_line
from d2r_fast.engine.config import Backend, Precision
from d2r_fast.engine.console import say
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.samples import draw_samples
from d2r_fast.engine.source import natural_key, open_source
from d2r_fast.translation.config import MethodName, TranslateConfig, TranslateRecipe
from d2r_fast.translation.method import Method
from d2r_fast.translation.methods import open_method
from d2r_fast.translation.random_weights import FILES, write_random_weights
from d2r_fast.translation.training.config import TransferMethod
from d2r_fast.translation.translate import describe, make_all, open_stages, prepare, settle

SIDE = 112
"""Pixels of the renders: DigiFace-1M's."""
NUM_ROUNDS = 5
PUBLIC, OURS, ALONE = "its public-style loop", "translate", "networks alone"
WITHOUT, WITH = "without dead work", "with dead work"
PER_IDENTITY = 2
PER_SHARD = 8
"""Identities: so few images are several shards, of which all but the last are written while the next is made."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """How a method is measured.

    Attributes:
        num_images: in a call, on a CPU with full shapes: of what takes seconds an image, few; of what is fast, so many
            that the 0.15 s of a run's beginning and end weigh little, as in a run of thousands.
        settings: of the recipe.
        note: what the settings are, for the table.
    """

    method: MethodName
    num_images: int
    settings: Json
    note: str


CASES = (
    Case("vsait", 120, {}, "112 pixels"),
    Case("decent", 120, {}, "112 pixels"),
    Case("unsb", 12, {"nfe": 5}, "112 pixels, 5 evaluations"),
    Case("codeformer", 4, {}, "512 pixels, w 0.5"),
    Case("stylegan-inversion", 12, {}, "256 pixels, e4e"),
    Case("ddim-inversion", 2, {"steps": 2}, "256 pixels, 2 steps each way"),
)
MANY = 64
"""Images in a call on a card, or of mini networks."""
MINI: dict[MethodName, Json] = {"ddim-inversion": {"size": 64}}
"""Settings of mini networks beside those of the case."""
TRAINED: tuple[TransferMethod, ...] = ("decent", "unsb")


@dataclass
class Subject:
    """A method with its weights, and what it is given to translate."""

    case: Case
    weights: Path
    bench: Bench

    def config(self, out: Path, backend: Backend, precision: Precision) -> TranslateConfig:
        """A run of `translate`, all of it decided."""
        given = TranslateConfig(
            method=self.case.method, source=self.source, weights=self.weights, out=out, engines=self.bench.engines,
            backend=backend, precision=precision, device=self.bench.device, identities_per_shard=PER_SHARD,
            **self.settings,
        )  # fmt: skip
        return settle(given, self.bench.device)

    @property
    def settings(self) -> Json:
        """Of the recipe."""
        own = MINI.get(self.case.method, {}) if self.bench.size == "mini" else {}
        return {**self.case.settings, **own}

    @cached_property
    def source(self) -> Path:
        """Renders, as many as the case says; drawn when they are first asked for."""
        few = self.bench.on_cpu and self.bench.size == "full"
        num_identities = max(1, (self.case.num_images if few else MANY) // PER_IDENTITY)
        source = self.bench.workspace / f"renders-{num_identities}"
        if not source.exists():
            draw_samples(source, num_identities=num_identities, images_per_identity=PER_IDENTITY, size=SIDE)
        return source

    @property
    def num_images(self) -> int:
        return open_source(self.source).num_images


class Translation:
    """`translate` with its networks open: a call makes a dataset in a folder of its own."""

    def __init__(self, subject: Subject, backend: Backend, precision: Precision) -> None:
        self._folder = subject.bench.workspace / f"translated-{subject.case.method}"
        self._config = subject.config(self._folder, backend, precision)
        source, self._members = prepare(self._config)
        self.method = open_method(self._config, subject.weights)
        self._document = describe(self._config, source, self._members, self.method)
        self._stages = open_stages(self._config, source, self.method, subject.bench.device)
        self.networks = self._stages.opened((SIDE, SIDE))
        self._numbers = itertools.count()

    def __call__(self) -> None:
        out = self._folder / str(next(self._numbers))
        out.parent.mkdir(exist_ok=True)
        with Dataset.open(out, self._document) as dataset:
            make_all(self._members, self._stages, dataset, self._config.model_copy(update={"out": out}))
            counts = dataset.finish()
        if counts["written"] != sum(len(identity.images) for identity in self._members):
            raise RunError(f"{self._config.method} did not write every image: {dict(counts)}")

    def alone(self, inputs: torch.Tensor) -> Callable[[], object]:
        """The networks on prepared images that are there already, in batches of the same size."""
        keys = torch.stack([torch.zeros(len(inputs), dtype=torch.int64), torch.arange(len(inputs))], 1)
        size = self._config.batch_size
        pairs = [
            (inputs[first : first + size], keys[first : first + size])
            for first in range(0, len(inputs), size)
        ]
        return lambda: [self.method.run(self.networks, *pair).cpu() for pair in pairs]


def measure(bench: Bench, found: Found) -> None:
    """Every method in turn, then UNSB's dead work, then training."""
    parts: dict[str, Callable[[float], None]] = {
        **{case.method: partial(measure_method, case, bench, found) for case in CASES},
        "unsb: dead work": partial(measure_dead_work, bench, found),
        **{f"{method}: training": partial(measure_training, method, bench, found) for method in TRAINED},
    }
    for place, (name, part) in enumerate(parts.items()):
        if bench.budget.left_s <= 0:
            found.row(name, reason="the time was up")
        else:
            part(bench.budget.share(len(parts) - place))


def measure_method(case: Case, bench: Bench, found: Found, most_s: float) -> None:
    """One method: its backends, and the fastest against the public-style loop and against itself without files."""
    subject = write_weights(case, bench)
    images = draw_noise([(0, number) for number in range(subject.num_images)], (3, SIDE, SIDE))
    pixels = (images.permute(0, 2, 3, 1) * 40 + 128).clamp(0, 255).to(torch.uint8).to(bench.device)
    best = fastest(subject, pixels, found, most_s=most_s / 4)
    if best is None:
        return
    translation, backend, precision = best
    rivals: dict[str, tuple[Arm, float]] = {
        PUBLIC: (open_plain(subject, translation.method, bench), most_s / 2),
        ALONE: (translation.alone(translation.method.prepare(pixels)), most_s / 4),
    }
    for name, (rival, share_s) in rivals.items():
        arms: dict[str, Arm] = {name: rival, f"{OURS}, by turns with {name}": translation}
        timings = interleave(arms, num_rounds=NUM_ROUNDS, most_s=share_s, device=bench.device)
        for arm, timing in timings.items():
            found.row(f"{case.method}: {arm}", num_images=len(pixels), **timing.row(len(pixels)))
        title = f"{case.method} over {name}"
        found.ratio(title, compare(*timings.values()), target=target(title, bench.kind),
                    note=f"{backend} {precision}, {case.note}")  # fmt: skip


def fastest(
    subject: Subject, pixels: torch.Tensor, found: Found, *, most_s: float
) -> tuple[Translation, Backend, Precision] | None:
    """The backend that runs the networks fastest, open; those for which there is no time are said."""
    bench, best, least_s = subject.bench, None, float("inf")
    begun_s = bench.budget.spent_s
    for backend, precision in itertools.product(backends_of(subject), bench.precisions):
        title = f"{subject.case.method} {backend} {precision}"
        if best is not None and bench.budget.spent_s - begun_s > most_s:
            found.row(title, reason="the time was up")
            continue
        say(f"bench: {title}")
        try:
            opened = Translation(subject, backend, precision)
            run = opened.alone(opened.method.prepare(pixels))
            timing = interleave({title: run}, num_rounds=1, device=bench.device)[title]
        except (UserError, RunError, torch.OutOfMemoryError) as error:
            found.row(title, reason=first_line(error))
            continue
        found.row(title, num_images=len(pixels), **timing.row(len(pixels)))
        if timing.median_s < least_s:
            best, least_s = (opened, backend, precision), timing.median_s
    return best


def backends_of(subject: Subject) -> tuple[Backend, ...]:
    """Those asked for; else on a CPU what `translate` takes by itself, on a card all that run."""
    bench = subject.bench
    if bench.on_cpu and not bench.config.backend:
        return ("openvino",)
    return bench.backends


def open_plain(subject: Subject, method: Method, bench: Bench) -> PlainTranslation:
    """The public-style loop over the same files."""
    out = bench.workspace / f"plain-{subject.case.method}"
    out.mkdir(exist_ok=True)
    files = sorted(
        subject.source.glob("*/*.png"),
        key=lambda path: (natural_key(path.parent.name), natural_key(path.name)),
    )
    return PlainTranslation(
        method, files, out, size=(SIDE, SIDE), device=bench.device, publish=PUBLISHED.get(subject.case.method)
    )


def measure_dead_work(bench: Bench, found: Found, most_s: float) -> None:
    """One evaluation of UNSB's network as torch runs it, with the work that its released blocks throw away and
    without; the outputs are the same bits.

    Raises:
        RunError: they are not.
    """
    case = next(case for case in CASES if case.method == "unsb")
    subject = write_weights(case, bench)
    method = open_method(TranslateRecipe(method="unsb"), subject.weights)
    (network,) = method.networks((SIDE, SIDE))
    inputs = {name: value.to(bench.device) for name, value in network.random_inputs(1, seed=0).items()}
    without, with_it = (EagerNetwork(network, bench.device, publish=each) for each in (None, do_dead_work))
    if not torch.equal(without(inputs)["translated"], with_it(inputs)["translated"]):
        raise RunError("UNSB's dead work changes its output, so it is not dead")
    arms = {WITHOUT: partial(without, inputs), WITH: partial(with_it, inputs)}
    timings = interleave(arms, num_rounds=NUM_ROUNDS, window_s=0.2, most_s=most_s, device=bench.device)
    for name, timing in timings.items():
        found.row(f"unsb: one evaluation {name}", **timing.row(1))
    title = "unsb without dead work over with it"
    found.ratio(title, compare(timings[WITH], timings[WITHOUT]), target=target(title, bench.kind),
                note="one evaluation, torch fp32 eager, the same bits")  # fmt: skip


def measure_training(method: TransferMethod, bench: Bench, found: Found, most_s: float) -> None:
    """Steps of `train-transfer` against a plain loop that reads, crops and steps in turn."""
    folder = bench.workspace / "transfer-images"
    if not folder.exists():
        draw_samples(folder, num_identities=4, images_per_identity=2)
    mini = bench.size == "mini"
    num_steps = 8 if mini else 2
    arms = transfer_arms(
        method, folder, num_steps=num_steps, size=64, ngf=8 if mini else 64, device=bench.device,
        num_blocks=5 if mini else 9,
    )  # fmt: skip
    timings = interleave(arms, num_rounds=NUM_ROUNDS, most_s=most_s, device=bench.device)
    for name, timing in timings.items():
        found.row(f"{method}: training by {name}", num_steps=num_steps, **timing.row(num_steps))
    plain, ours = timings.values()
    ratio: Ratio = compare(plain, ours)
    note = f"{num_steps / ours.median_s:.3g} steps/s, 64 pixels, {'8' if mini else '64'} channels"
    found.ratio(f"train-transfer {method} over a plain loop", ratio, note=note)


def write_weights(case: Case, bench: Bench) -> Subject:
    """Random weights in the method's published layout and size."""
    path = bench.workspace / FILES[case.method]
    if not path.exists():
        say(f"bench: writing random {bench.size} weights of {case.method}")
        write_random_weights(case.method, bench.workspace, size="full" if bench.size == "full" else "mini")
    return Subject(case, path, bench)
