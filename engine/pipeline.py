"""The `generate` command: a folder of renders in, a finished dataset out.

Everything is opened and checked before the first image; then each shard that is not finished yet is made and
written, and the dataset is closed with its card and its success marker. Running the same command again after
a stop goes on where it was.
"""

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import d2r_fast
from d2r_fast.engine.backend import PRECISIONS
from d2r_fast.engine.batch import rows_of
from d2r_fast.engine.clock import Clock
from d2r_fast.engine.config import GenerateConfig, Recipe
from d2r_fast.engine.dataset import Dataset, check_same
from d2r_fast.engine.detect import load_detector
from d2r_fast.engine.device import find_device, find_dtype
from d2r_fast.engine.embed import load_embedder
from d2r_fast.engine.ends import check_apart, conclude
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.executors.listing import Digests, digest_shards
from d2r_fast.engine.executors.maker import Open, Task, members_of
from d2r_fast.engine.executors.place import absolute, check_no_card, find_place, run_here
from d2r_fast.engine.executors.share import find_share
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.finish import Finisher
from d2r_fast.engine.flow import Stages
from d2r_fast.engine.generating import Generating
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.models.layout import describe_files
from d2r_fast.engine.offset import read_offset
from d2r_fast.engine.out import Out, find_out
from d2r_fast.engine.person import Host
from d2r_fast.engine.rank import read_ranking
from d2r_fast.engine.restore import Restorer
from d2r_fast.engine.source import Identity, Source, fingerprint, open_source
from d2r_fast.engine.step_counts import read_steps
from d2r_fast.engine.write import check_names
from d2r_fast.translation.config import TranslateRecipe
from d2r_fast.translation.weights import describe_weights

FINISH_BATCH = 8
"""Images decoded and looked at together: enough for a GPU, and soon done where a signal waits for them."""
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "diffusers",
    "transformers",
    "onnxruntime",
    "pillow",
    "pyarrow",
    "webdataset",
)


def generate(config: GenerateConfig) -> int:
    """Make the dataset, or go on making it.

    Returns:
        0, or 3 if more images were rejected or failed than `max_error_rate` allows.

    Raises:
        UserError: the source, the models or a setting cannot be used, or the folder holds another dataset.
        RunError: the disk is full or the folder is in use.
    """
    with find_place(config) as place:
        config = settle(absolute(config) if place.apart else config, place.device)
        check_no_card("recogniser_device", config.recogniser_device, place)
        source, members = prepare(config)
        document = describe(config, source, members)
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


def prepare(config: GenerateConfig) -> tuple[Source, list[Identity]]:
    """The source, and the identities to make in the order of their labels.

    Raises:
        UserError: they cannot be used.
    """
    find_device(config.recogniser_device)
    source = open_source(config.source)
    check_apart(config.source, config.out)
    members = select(source, config)
    check_names([identity.name for identity in members], format=config.format)
    return source, members


def settle(config: GenerateConfig, device: str) -> GenerateConfig:
    """The configuration with `auto` decided for the device, as it will be written down."""
    decided: dict[str, Any] = {}
    if config.dtype == "auto":
        decided["dtype"] = "float32" if device == "cpu" else "float16"
    if config.backend == "auto":
        decided["backend"] = "openvino" if device == "cpu" else "torch"
    if config.recogniser_backend == "auto":
        place = device if config.recogniser_device == "auto" else config.recogniser_device
        decided["recogniser_backend"] = "onnxruntime" if place == "cpu" else "torch"
    if config.restore is not None and config.restore_w is None:
        decided["restore_w"] = TranslateRecipe(method="codeformer").filled().w
    return config.model_copy(update=decided)


def select(source: Source, config: GenerateConfig) -> list[Identity]:
    """The identities to make, in the order of their labels."""
    found = {identity.name: identity for identity in source.identities}
    members = list(found.values())
    if config.ranking is not None:
        names = read_ranking(config.ranking)
        missing = [name for name in names if name not in found]
        if missing:
            raise UserError(
                f"ranking {config.ranking} names {len(missing)} identities that {config.source} does not have, "
                f"such as {missing[0]!r}: rank the embeddings of this source"
            )
        members = [found[name] for name in names]
    wanted = config.identities or len(members)
    if wanted > len(members):
        raise UserError(
            f"identities = {wanted}: {config.ranking or config.source} has {len(members)}, give at most that"
        )
    return members[:wanted]


def describe(
    config: GenerateConfig,
    source: Source,
    members: list[Identity],
    *,
    listed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The dataset's identity, as dataset.json holds it: a run that goes on must come to the same document.

    `listed` is a document for which all images were listed already, which takes long: what it says of them is taken.
    """
    recipe = {name: getattr(config, name) for name in Recipe.model_fields}
    for name in ("ranking", "clip_offset", "identity_steps", "restore"):
        recipe[name] = digest(recipe[name]) if recipe[name] else None
    models, kind = describe_files(
        config.models, recogniser=config.recogniser, detector=config.detector, sampler=config.sampler
    )
    if config.restore is not None:
        models |= describe_weights("codeformer", config.restore)[0]
    else:  # datasets of before there was this stage go on
        del recipe["restore"], recipe["restore_w"]
    num_identities = len(members)
    return {
        "schema": 1,
        "format": config.format,
        "recipe": recipe,
        "models": models,
        "models_kind": kind,
        "source": {
            "name": source.name, "fingerprint": listed["source"]["fingerprint"] if listed else fingerprint(members),
            "num_identities": len(source.identities),
        },
        "versions": {"d2r-fast": d2r_fast.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "licences": sorted({entry["licence"] for entry in models.values()}),
        "plan": {
            "num_identities": num_identities,
            "images_per_identity": config.images_per_identity,
            "wanted": num_identities * config.images_per_identity,
            "identities_per_shard": config.identities_per_shard,
            "num_shards": -(-num_identities // config.identities_per_shard),
        },
    }  # fmt: skip


def digest(path: Path) -> str:
    """sha256 of a file that a setting names: what it says is part of the recipe, where it lies is not."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def open_stages(config: GenerateConfig, source: Source, device: str, pool: ThreadPoolExecutor) -> Stages:
    """Load every network the run needs, and refuse what does not fit together."""
    embedder = load_embedder(
        config.models, recogniser=config.recogniser, alignment=config.source_alignment,
        detector="mtcnn" if config.detector == "template" else config.detector, device=device,
        recogniser_device=config.recogniser_device, batch_size=rows_of("arcface", config.batch_size),
        recogniser_backend=config.recogniser_backend, recogniser_precision=config.recogniser_precision,
        engines=config.engines,
    )  # fmt: skip
    if embedder.recogniser.size != (112, 112):
        raise UserError(
            f"recogniser {embedder.recogniser.path} takes {embedder.recogniser.size} pixels, generated crops have "
            "112x112: give one of that size"
        )
    assert config.backend != "auto", "settled"
    generator = Arc2FaceGenerator.from_pretrained(
        config.models, backend=config.backend, engines=config.engines, device=device, dtype=config.dtype,
        batch_size=config.batch_size, sampler=config.sampler, height=config.height, width=config.width,
    )  # fmt: skip
    if embedder.recogniser.embedding_dim != generator.embedding_dim:
        raise UserError(
            f"recogniser {embedder.recogniser.path} gives {embedder.recogniser.embedding_dim} values, the encoder in "
            f"{config.models} takes {generator.embedding_dim}: use the recogniser that the encoder was trained with"
        )
    offset = (
        read_offset(config.clip_offset, models=config.models, recogniser=embedder.recogniser)
        if config.clip_offset
        else None
    )
    if offset is not None:
        offset = offset * config.clip_offset_scale
    steps = (
        read_steps(config.identity_steps, {identity.name for identity in source.identities})
        if config.identity_steps
        else {}
    )
    for count in {config.steps, *steps.values()}:
        generator.check(steps=count, guidance=config.guidance, offset=offset)
    detector = load_detector(
        config.detector, models_dir=config.models, device=device, min_face_size=config.min_face_size
    )
    clock = Clock()
    return Stages(
        host=Host(source, embedder, config, pool),
        finisher=Finisher(generator, detector, embedder, config, clock, _open_restorer(config, generator)),
        clock=clock, offset=offset, steps=steps, finish_batch=FINISH_BATCH,
    )  # fmt: skip


def _open_restorer(config: GenerateConfig, generator: Arc2FaceGenerator) -> Restorer | None:
    if config.restore is None:
        return None
    assert config.restore_w is not None, "settled"
    return Restorer.open(
        config.restore, w=config.restore_w, size=generator.image_size, backend=config.backend,
        precision=PRECISIONS[find_dtype(config.dtype, generator.device)], engines=config.engines,
        device=generator.device, batch_size=FINISH_BATCH,
    )  # fmt: skip


@contextmanager
def open_maker(
    config: GenerateConfig,
    out: Out,
    found: tuple[Source, list[Identity]] | None,
    document: Mapping[str, Any] | None,
    digests: Digests | None,
    device: str,
    pending: Sequence[int],
) -> Iterator[Generating]:
    """What makes shards in this process, with its networks open.

    Args:
        config: settled.
        out: where shards go.
        found: what `prepare` gave in this process, or None.
        document: what the dataset must be here too: for machines that may hold other files. None: it is known to.
        digests: what the run found in its source, for processes that look for themselves.
        device: "cpu" or "cuda:N".
        pending: shards of which some will be made.

    Raises:
        UserError: as `generate`, or the document differs here.
    """
    source, members = found or prepare(config)
    if document is not None:
        check_same(document, describe(config, source, members, listed=document))
        out.prepare(document)
    with ThreadPoolExecutor() as pool:
        yield Generating(members, open_stages(config, source, device, pool), config, out, digests)


def make_all(members: list[Identity], stages: Stages, dataset: Dataset, config: GenerateConfig) -> None:
    """Make and write the shards that are not finished, in this process with open networks."""
    maker = Generating(members, stages, config, dataset.out)
    device = stages.finisher.generator.device
    run_here(_task(members, config, lambda *_: nullcontext(maker)), maker, dataset, device=device)


def _task(members: list[Identity], config: GenerateConfig, opener: Open) -> Task:
    def num_images(shard: int) -> int:
        return len(members_of(members, shard, config.identities_per_shard)) * config.images_per_identity

    return Task("generate", opener, num_images, total=len(members) * config.images_per_identity)
