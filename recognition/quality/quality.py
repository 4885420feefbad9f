"""The `quality` command: what a dataset is worth, measured by a recogniser and without training.

    run_quality(QualityConfig(dataset=Path("digi2real"), recogniser=Path("adaface.onnx")))

Writes quality.json (every value, exact) and quality.md (the same for people), and prints the table.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import d2r_fast
from d2r_fast.engine.config import Frozen
from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import write_atomic
from d2r_fast.engine.folder_lock import held, refuse_foreign
from d2r_fast.engine.marker import dump
from d2r_fast.recognition.embedder import Embedder, open_embedder
from d2r_fast.recognition.evaluation.crops import SIZE
from d2r_fast.recognition.network_file import network_file, weights_sha256
from d2r_fast.recognition.quality.calibrate import calibrate
from d2r_fast.recognition.quality.config import QualityConfig
from d2r_fast.recognition.quality.crops import choose_images
from d2r_fast.recognition.quality.embedded import EmbeddedSet, embed_set
from d2r_fast.recognition.quality.measure import Measured, Scale, measure
from d2r_fast.recognition.quality.provenance import Origin, check_origin
from d2r_fast.recognition.quality.realism import Realism, find_inception, import_fidelity, measure_realism
from d2r_fast.recognition.quality.summary import render_summary, render_text
from d2r_fast.recognition.training.training_set import TrainingSet, open_training_set

DOCUMENT, PAGE = "quality.json", "quality.md"
SCHEMA = 1


def run_quality(config: QualityConfig) -> int:
    """Measure a dataset, or calibrate; returns the exit status.

    Raises:
        UserError: the dataset, the recogniser or `out` cannot be used; `out` holds results of others; the recogniser
            steered the generator and that is not allowed; realism is asked for without torch-fidelity or its weights.
        RunError: the disk is full, an embedding is not finite, another process measures into `out`.
    """
    if config.calibrate is not None:
        return calibrate(
            config.calibrate, accuracies=config.accuracies, out=config.out, bootstrap=config.bootstrap,
            seed=config.seed,
        )  # fmt: skip
    assert config.dataset is not None, "checked by QualityConfig"
    out = prepare_out(config.dataset, config.out)
    images = open_training_set(config.dataset, num_identities=config.identities, seed=config.seed)
    refuse_foreign(out, own=[DOCUMENT, PAGE], what="measurement")
    with held(out):
        measure_into(out, images, config)
    return 0


def measure_into(out: Path, images: TrainingSet, config: QualityConfig) -> None:
    """Measure a dataset, print the table, and write quality.json and quality.md into a folder that is ours alone."""
    assert config.dataset is not None, "checked by QualityConfig"
    assert config.recogniser is not None, "checked by QualityConfig"
    started_s = time.monotonic()
    device = find_device(config.device)
    origin = check_origin(config.dataset, config.recogniser, allow_same=config.allow_same)
    real = _open_real(config)
    embedder = _open(config.recogniser, device=device, batch_size=config.batch_size)
    subject = describe_subject(config.recogniser, images, embedder.name, origin)
    refuse_other(out, subject)
    indices = choose_images(images, per_identity=config.images_per_identity, seed=config.seed)
    embedded = embed_set(
        images, indices, embedder, batch_size=config.batch_size, max_unreadable=config.max_unreadable
    )
    scale = Scale(**{name: getattr(config, name) for name in Scale.__dataclass_fields__})
    measured = measure(embedded.embeddings, embedded.labels, scale, class_names=embedded.class_names)
    realism = None if real is None else measure_realism(
        images, real[0], inception=real[1], max_images=config.realism_images, batch_size=config.batch_size,
        device=device, seed=config.seed, already=embedded.unusable, max_unreadable=config.max_unreadable,
    )  # fmt: skip
    document = describe(config, subject, origin, embedded, measured, realism)
    document["seconds"] = round(time.monotonic() - started_s, 2)
    write_atomic(out / PAGE, render_summary(document).encode())
    write_atomic(out / DOCUMENT, dump(document))
    print(render_text(document))
    say(f"quality: {out / DOCUMENT} and {out / PAGE}")


def refuse_other(out: Path, subject: Mapping[str, Any]) -> None:
    """Leave alone what another dataset or recogniser came to; other settings take its place.

    Raises:
        UserError: `out` holds such results, or a damaged file.
    """
    path = out / DOCUMENT
    if not path.exists():
        return
    try:
        document = json.loads(path.read_bytes())
        found = {
            "dataset": document["dataset"]["fingerprint"],
            "recogniser": document["recogniser"]["sha256"],
        }
        names = {key: document[key]["name"] for key in found}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged or none of ours: delete it, or give another --out") from None
    given = {"dataset": subject["dataset"]["fingerprint"], "recogniser": subject["recogniser"]["sha256"]}
    differing = [key for key in found if found[key] != given[key]]
    if differing:
        whose = " and ".join(f"another {key} ({names[key]})" for key in differing)
        raise UserError(f"out {out} holds results of {whose}: give another --out, or delete it")


def prepare_out(dataset: Path, out: Path | None) -> Path:
    """The folder to write to; nothing is made yet.

    Raises:
        UserError: it is a file, or lies in the dataset, where it would become an identity.
    """
    root = dataset.resolve()
    folder = root.with_name(f"{root.name}-quality") if out is None else out
    if folder.resolve().is_relative_to(root):
        raise UserError(f"out {folder} lies in the dataset {dataset}: give --out a folder elsewhere")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out {folder} is a file: give --out a folder")
    return folder


def _open(recogniser: Path, *, device: str, batch_size: int) -> Embedder:
    embedder = open_embedder(recogniser, device=device, batch_size=batch_size)
    if tuple(embedder.size) != (SIZE, SIZE):
        raise UserError(f"recogniser {recogniser} takes {embedder.size} pixels: give one for {SIZE}x{SIZE}")
    return embedder


def _open_real(config: QualityConfig) -> tuple[TrainingSet, Path] | None:
    """The photographs and the Inception weights, if realism is asked for: before anything takes time."""
    if config.real is None:
        return None
    import_fidelity()
    return open_training_set(config.real), find_inception(config.inception)


def describe_subject(recogniser: Path, images: TrainingSet, name: str, origin: Origin) -> dict[str, Any]:
    """What is measured, and what with."""
    sha256 = weights_sha256(network_file(recogniser) if recogniser.suffix != ".onnx" else recogniser)
    return {
        "dataset": {
            "name": images.name,
            "fingerprint": images.fingerprint(),
            "empty_classes": images.num_empty,
        },
        "recogniser": {"name": name, "sha256": sha256, "generator": origin},
    }


def describe(
    config: QualityConfig, subject: Mapping[str, Any], origin: Origin, embedded: EmbeddedSet, measured: Measured,
    realism: Realism | None,
) -> dict[str, Any]:  # fmt: skip
    """What quality.json holds. `measures` are numbers by name, null where there is nothing to measure."""
    found = {} if realism is None else {"fid": realism.fid, "kid": realism.kid, "kid_std": realism.kid_std}
    lost = embedded.unusable if realism is None else (*embedded.unusable, *realism.unusable)
    return {
        "schema": SCHEMA,
        **subject,
        "measures": measured.values | found,
        "counts": measured.counts,
        "most_alike": [
            {
                "first": embedded.class_names[pair.first], "second": embedded.class_names[pair.second],
                "cosine": round(pair.cosine, 6),
            }
            for pair in measured.duplicates.most_alike
        ],
        "realism": _describe_realism(realism),
        "unusable": [asdict(one) for one in dict.fromkeys(lost)],
        "warnings": warnings(config, origin, measured, realism),
        "settings": _settings(config),
        "versions": {"d2r-fast": d2r_fast.__version__},
    }  # fmt: skip


def _describe_realism(realism: Realism | None) -> dict[str, Any]:
    if realism is None:
        return {"measured": False, "reason": "no real photographs were given (--real)"}
    return {
        "measured": True, "num_images": realism.num_images, "num_real": realism.num_real,
        "inception_sha256": realism.inception_sha256, "published_weights": realism.published_weights,
    }  # fmt: skip


def warnings(config: QualityConfig, origin: Origin, measured: Measured, realism: Realism | None) -> list[str]:
    """What a reader must know before believing a number."""
    found = {
        "same": "The recogniser is the one that steered the generator: these figures tell how well the generator "
        "obeyed it, and not what the dataset is worth.",
        "unknown": "The dataset does not say which recogniser steered its generator: see that it was another one.",
        "other": None,
    }
    singles = measured.counts["single_image_identities"]
    sampled = measured.counts["impostor_pairs_sampled"] < measured.counts["impostor_pairs"]
    notes = [
        found[origin],
        f"{singles:,} identities have one image and take no part in what compares images of one identity."
        if singles else None,
        f"EER, FMR100 and FMR1000 rest on {measured.counts['impostor_pairs_sampled']:,} of "
        f"{measured.counts['impostor_pairs']:,} impostor pairs." if sampled else None,
        "A part of the dataset was measured: effective rank, uniqueness and duplicates depend on how large."
        if config.identities or config.images_per_identity else None,
        "The Inception weights are not the published ones: FID and KID compare with nothing published."
        if realism is not None and not realism.published_weights else None,
    ]  # fmt: skip
    return [note for note in notes if note]


_SHOWN = ("identities", "images_per_identity", "radius", "duplicate_threshold", "neighbours", "queries",
          "impostor_pairs", "seed")  # fmt: skip


def _settings(config: Frozen) -> dict[str, Any]:
    """What decides the numbers, and no folder of this machine."""
    return {name: getattr(config, name) for name in _SHOWN}
