"""The `translate` command: a folder of renders in, a dataset of their translations out, image by image.

Everything is checked, and the networks of the first image opened, before anything is written; those of other sizes
are opened as they come. Each shard that is not finished yet is made and written, and the dataset is closed with its
card and its success marker. Running the same command again after a stop goes on where it was.
"""

import importlib.metadata
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import PurePath
from typing import Any

import d2r_fast
from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.clock import Clock
from d2r_fast.engine.dataset import Dataset, check_same
from d2r_fast.engine.encoder import describe_encoder, open_encoder
from d2r_fast.engine.ends import check_apart, conclude
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.executors.listing import Digests, digest_shards
from d2r_fast.engine.executors.maker import Open, Task, members_of
from d2r_fast.engine.executors.place import absolute, find_place, run_here
from d2r_fast.engine.executors.share import find_share
from d2r_fast.engine.marker import TRANSLATED
from d2r_fast.engine.out import Out, find_out
from d2r_fast.engine.readers.reader import describe_reader, open_reader
from d2r_fast.engine.source import Identity, Source, fingerprint, open_source
from d2r_fast.engine.write import check_names
from d2r_fast.translation.batches import Decoded
from d2r_fast.translation.config import TranslateConfig, TranslateRecipe
from d2r_fast.translation.flow import Stages, read_all, why_not
from d2r_fast.translation.method import Method
from d2r_fast.translation.methods import open_method
from d2r_fast.translation.opened import Opened
from d2r_fast.translation.shard import TranslatedShard
from d2r_fast.translation.translating import Translating
from d2r_fast.translation.weights import describe_weights

PACKAGES = ("torch", "numpy", "diffusers", "onnxruntime", "pillow", "pyarrow", "webdataset")


def translate(config: TranslateConfig) -> int:
    """Make the dataset, or go on making it.

    Returns:
        0, or 3 if more images failed than `max_error_rate` allows.

    Raises:
        UserError: the source, the weights or a setting cannot be used, or the folder holds another dataset.
        RunError: the disk is full, the folder is in use, or a network failed.
    """
    with find_place(config) as place:
        config = decide(absolute(config), place.device) if place.apart else settle(config, place.device)
        source, members = prepare(config)
        method = open_method(config, config.weights)
        document = describe(config, source, members, method)
        shards = find_share(config, document["plan"]["num_shards"])
        if shards is not None and not shards:
            return 0
        out = find_out(config, document, here=place.here)
        opener = partial(
            open_maker, config, out, (source, members) if place.here else None, document if place.apart else None,
            None if place.here else digest_shards(members, config.identities_per_shard),
        )  # fmt: skip
        with Dataset.open(out, document, shards=shards) as dataset:
            if dataset.unfinished:
                place.run(_task(members, config, opener), dataset)
            counts = dataset.finish()
    return conclude(counts, dataset, max_error_rate=config.max_error_rate)


def settle(config: TranslateConfig, device: str) -> TranslateConfig:
    """The configuration with `auto` and the method's own settings decided, as it will be written down.

    Raises:
        UserError: the backend cannot run here, or not in this arithmetic.
    """
    config = decide(config, device)
    check_backend(config, device)
    return config


def decide(config: TranslateConfig, device: str) -> TranslateConfig:
    """The same, for a machine that may not be this one."""
    decided: dict[str, Any] = {}
    if config.backend == "auto":
        decided["backend"] = "openvino" if device == "cpu" else "torch"
    if config.precision == "auto":
        decided["precision"] = "fp32" if device == "cpu" else "fp16"
    return config.model_copy(update=decided).filled()


def check_backend(config: TranslateConfig, device: str) -> None:
    """See that the decided backend runs on this machine's device.

    Raises:
        UserError: it does not, or not in this arithmetic.
    """
    assert config.backend != "auto", "decided"
    assert config.precision != "auto", "decided"
    backend = find_backend(config.backend)
    reason = backend.why_not(device) or backend.why_not_precision(config.precision, device)
    if reason is not None:
        raise UserError(f"backend {config.backend} in {config.precision}: {reason}")


def prepare(config: TranslateConfig, *, listed: bool = False) -> tuple[Source, list[Identity]]:
    """The source, and the identities to translate in the order of their labels.

    With `listed` another process has listed all images, which takes long, and seen that their names will do.

    Raises:
        UserError: they cannot be used.
    """
    source = open_source(config.source)
    check_apart(config.source, config.out)
    wanted = config.identities or len(source.identities)
    if wanted > len(source.identities):
        raise UserError(
            f"identities = {wanted}: {config.source} has {len(source.identities)}, give at most that"
        )
    members = list(source.identities[:wanted])
    if not any(identity.images for identity in members):
        raise UserError(
            f"the first {wanted} identities of {config.source} have no image: give more identities"
        )
    check_names([identity.name for identity in members], format=config.format)
    if config.format == "imagefolder" and not listed:
        for identity in members:
            check_stems(identity)
    return source, members


def check_stems(identity: Identity) -> None:
    """See that no two images of an identity would get one name.

    Raises:
        UserError: two would.
    """
    names: dict[str, str] = {}
    for image in identity.images:
        stem = PurePath(image.name).stem
        if stem in names:
            raise UserError(
                f"identity {identity.name} has {names[stem]} and {image.name}, which would both be called {stem}: "
                "rename one, or use --format webdataset"
            )
        names[stem] = image.name


def describe(
    config: TranslateConfig, source: Source, members: list[Identity], method: Method, *,
    listed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The dataset's identity, as dataset.json holds it: a run that goes on must come to the same document.

    `listed` is a document for which all images were listed already, which takes long: what it says of them is taken.
    """
    weights, kind = describe_weights(config.method, config.weights)
    num_identities = len(members)
    return {
        "schema": 1,
        "kind": TRANSLATED,
        "format": config.format,
        "recipe": {name: getattr(config, name) for name in TranslateRecipe.model_fields},
        "breach": method.breach,
        "models": weights,
        "models_kind": kind,
        "source": {
            "name": source.name, "fingerprint": listed["source"]["fingerprint"] if listed else fingerprint(members),
            "num_identities": len(source.identities),
        },
        **describe_reader(config.reader),
        **describe_encoder(config.encoder),
        "versions": {"d2r-fast": d2r_fast.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES}
        | {config.backend: find_backend(config.backend).version()},
        "licences": sorted({entry["licence"] for entry in weights.values()}),
        "plan": {
            "num_identities": num_identities,
            "wanted": listed["plan"]["wanted"] if listed else sum(len(identity.images) for identity in members),
            "identities_per_shard": config.identities_per_shard,
            "num_shards": -(-num_identities // config.identities_per_shard),
        },
    }  # fmt: skip


def open_stages(config: TranslateConfig, source: Source, method: Method, device: str) -> Stages:
    """What the run needs, its networks not opened yet."""
    assert config.precision != "auto", "settled"
    opened = Opened(
        method, backend=config.backend, precision=config.precision, engines=config.engines, device=device,
        batch_size=config.batch_size,
    )  # fmt: skip
    num_threads = config.num_threads or len(os.sched_getaffinity(0))
    return Stages(
        source=source, opened=opened, recipe=config, clock=Clock(), batch_size=config.batch_size,
        num_threads=num_threads,
        reader=open_reader(config.reader, device=device, num_threads=num_threads),
        encode=open_encoder(
            config.encoder, image_format=config.image_format, quality=config.jpeg_quality, device=device
        ),
    )  # fmt: skip


@contextmanager
def open_maker(
    config: TranslateConfig,
    out: Out,
    found: tuple[Source, list[Identity]] | None,
    document: Mapping[str, Any] | None,
    digests: Digests | None,
    device: str,
    pending: Sequence[int],
) -> Iterator[Translating]:
    """What makes shards in this process, with the networks of the first image open.

    Args:
        config: settled.
        out: where shards go.
        found: what `prepare` gave in this process, or None.
        document: what the dataset must be here too: for machines that may hold other files. None: it is known to.
        digests: what the run found in its source, for processes that look for themselves.
        device: "cpu" or "cuda:N".
        pending: shards of which some will be made.

    Raises:
        UserError, RunError: as `translate`, or the document differs here.
    """
    check_backend(config, device)
    source, members = found or prepare(config, listed=True)
    method = open_method(config, config.weights)
    if document is not None:
        check_same(document, describe(config, source, members, method, listed=document))
        out.prepare(document)
    stages = open_stages(config, source, method, device)
    open_first(members, stages, config, pending)
    yield Translating(members, stages, config, out, digests)


def make_all(members: list[Identity], stages: Stages, dataset: Dataset, config: TranslateConfig) -> None:
    """Make and write the shards that are not finished, in this process."""
    open_first(members, stages, config, dataset.unfinished)
    maker = Translating(members, stages, config, dataset.out)
    task = _task(members, config, lambda *_: nullcontext(maker))
    run_here(task, maker, dataset, device=stages.opened.device)


def _task(members: list[Identity], config: TranslateConfig, opener: Open) -> Task:
    def num_images(shard: int) -> int:
        own = members_of(members, shard, config.identities_per_shard)
        return sum(len(identity.images) for _, identity in own)

    return Task("translate", opener, num_images, total=sum(len(identity.images) for identity in members))


def open_first(
    members: list[Identity], stages: Stages, config: TranslateConfig, pending: Sequence[int]
) -> None:
    """Opens the networks for the first image of these shards that can be translated, before anything is written.

    Raises:
        UserError, RunError: they cannot be opened.
    """
    for number in pending:
        shard = TranslatedShard(number, stages.recipe.seed, lambda row: None)
        for label, identity in members_of(members, number, config.identities_per_shard):
            for task in shard.add(label, identity):
                (image,) = read_all(stages, [task])
                if isinstance(image, Decoded) and why_not(stages.opened, image.size) is None:
                    stages.opened(image.size)
                    return
