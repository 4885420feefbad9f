"""The `translate` command: a folder of renders in, a dataset of their translations out, image by image.

Everything is checked, and the networks of the first image opened, before anything is written; those of other sizes
are opened as they come. Each shard that is not finished yet is made and written, and the dataset is closed with its
card and its success marker. Running the same command again after a stop goes on where it was.
"""

import importlib.metadata
import os
from collections import Counter
from contextlib import closing
from pathlib import PurePath
from typing import Any

import d2r_fast
from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.clock import Clock
from d2r_fast.engine.config import Backend
from d2r_fast.engine.console import Meter
from d2r_fast.engine.dataset import Dataset
from d2r_fast.engine.device import device_name, find_device
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.marker import TRANSLATED
from d2r_fast.engine.pipeline import check_apart, conclude
from d2r_fast.engine.rows import TranslatedRow
from d2r_fast.engine.source import FolderSource, Identity, fingerprint, open_source
from d2r_fast.engine.write import check_names, write_shard
from d2r_fast.engine.write_behind import write_behind
from d2r_fast.translation.batches import Decoded
from d2r_fast.translation.config import MethodName, TranslateConfig, TranslateRecipe
from d2r_fast.translation.flow import Flow, Members, Stages, read, why_not
from d2r_fast.translation.method import Method
from d2r_fast.translation.methods import open_method
from d2r_fast.translation.opened import Opened
from d2r_fast.translation.shard import TranslatedShard
from d2r_fast.translation.weights import describe_weights

ON_CPU: dict[MethodName, Backend] = {"codeformer": "onnxruntime"}
"""What auto is where it is not openvino. CodeFormer's generator has large maps: openvino is 1e-5 from float32 there,
all that is allowed, and onnxruntime 3e-6, at about the same speed."""
PACKAGES = ("torch", "numpy", "diffusers", "onnxruntime", "pillow", "pyarrow", "webdataset")


def translate(config: TranslateConfig) -> int:
    """Make the dataset, or go on making it.

    Returns:
        0, or 3 if more images failed than `max_error_rate` allows.

    Raises:
        UserError: the source, the weights or a setting cannot be used, or the folder holds another dataset.
        RunError: the disk is full, the folder is in use, or a network failed.
    """
    device = find_device(config.device)
    config = settle(config, device)
    source, members = prepare(config)
    method = open_method(config, config.weights)
    document = describe(config, source, members, method)
    with Dataset.open(config.out, document) as dataset:
        if dataset.unfinished:
            make_all(members, open_stages(config, source, method, device), dataset, config)
        counts = dataset.finish()
    return conclude(counts, out=config.out, max_error_rate=config.max_error_rate)


def settle(config: TranslateConfig, device: str) -> TranslateConfig:
    """The configuration with `auto` and the method's own settings decided, as it will be written down.

    Raises:
        UserError: the backend cannot run here, or not in this arithmetic.
    """
    decided: dict[str, Any] = {}
    if config.backend == "auto":
        decided["backend"] = ON_CPU.get(config.method, "openvino") if device == "cpu" else "torch"
    if config.precision == "auto":
        decided["precision"] = "fp32" if device == "cpu" else "fp16"
    config = config.model_copy(update=decided).filled()
    assert config.backend != "auto", "decided"
    assert config.precision != "auto", "decided"
    backend = find_backend(config.backend)
    reason = backend.why_not(device) or backend.why_not_precision(config.precision, device)
    if reason is not None:
        raise UserError(f"backend {config.backend} in {config.precision}: {reason}")
    return config


def prepare(config: TranslateConfig) -> tuple[FolderSource, list[Identity]]:
    """The source, and the identities to translate in the order of their labels.

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
    if config.format == "imagefolder":
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
    config: TranslateConfig, source: FolderSource, members: list[Identity], method: Method
) -> dict[str, Any]:
    """The dataset's identity, as dataset.json holds it: a run that goes on must come to the same document."""
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
            "name": source.root.resolve().name, "fingerprint": fingerprint(members),
            "num_identities": len(source.identities),
        },
        "versions": {"d2r-fast": d2r_fast.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES}
        | {config.backend: find_backend(config.backend).version()},
        "licences": sorted({entry["licence"] for entry in weights.values()}),
        "plan": {
            "num_identities": num_identities,
            "wanted": sum(len(identity.images) for identity in members),
            "identities_per_shard": config.identities_per_shard,
            "num_shards": -(-num_identities // config.identities_per_shard),
        },
    }  # fmt: skip


def open_stages(config: TranslateConfig, source: FolderSource, method: Method, device: str) -> Stages:
    """What the run needs, its networks not opened yet."""
    assert config.precision != "auto", "settled"
    opened = Opened(
        method, backend=config.backend, precision=config.precision, engines=config.engines, device=device,
        batch_size=config.batch_size,
    )  # fmt: skip
    return Stages(
        source=source, opened=opened, recipe=config, clock=Clock(), batch_size=config.batch_size,
        num_threads=config.num_threads or len(os.sched_getaffinity(0)),
    )  # fmt: skip


def make_all(members: list[Identity], stages: Stages, dataset: Dataset, config: TranslateConfig) -> None:
    """Make and write the shards that are not finished."""
    pending = [(shard, _members(members, shard, config)) for shard in dataset.unfinished]
    open_first(pending, stages)
    total = sum(len(identity.images) for identity in members)
    left = sum(len(identity.images) for _, shard in pending for _, identity in shard)
    tally: Counter[str] = Counter()
    dataset.begin()
    dataset.log(
        "start", source=str(stages.source.root.resolve()), device=device_name(stages.opened.device),
        batch_size=config.batch_size, num_threads=stages.num_threads, shards=len(pending),
    )  # fmt: skip
    with Meter("translate", total=total, already=total - left) as meter:

        def report(row: TranslatedRow) -> None:
            tally[row.status] += 1
            meter.advance(1, note=", ".join(f"{count} {status}" for status, count in sorted(tally.items())))

        def write(shard: TranslatedShard) -> dict[str, Any]:
            with stages.clock("write"):
                return write_shard(
                    dataset.folder, shard.number, rows=shard.rows, images=shard.images, identities=shard.identities,
                    errors=shard.problems, format=config.format, image_format=config.image_format,
                )  # fmt: skip

        with closing(Flow(pending, stages, report)) as flow, closing(write_behind(flow, write)) as markers:
            for marker in markers:
                dataset.log(
                    "shard", shard=marker["shard"], stage_s=stages.clock.lap(), images=marker["wanted"]
                )


def open_first(pending: list[tuple[int, Members]], stages: Stages) -> None:
    """Opens the networks for the first image that can be translated, before anything is written.

    Raises:
        UserError, RunError: they cannot be opened.
    """
    for number, members in pending:
        shard = TranslatedShard(number, stages.recipe.seed, lambda row: None)
        for label, identity in members:
            for task in shard.add(label, identity):
                image = read(stages.source, task)
                if isinstance(image, Decoded) and why_not(stages.opened, image.size) is None:
                    stages.opened(image.size)
                    return


def _members(members: list[Identity], shard: int, config: TranslateConfig) -> Members:
    """The identities of a shard with their labels."""
    first = shard * config.identities_per_shard
    return list(enumerate(members[first : first + config.identities_per_shard], first))
