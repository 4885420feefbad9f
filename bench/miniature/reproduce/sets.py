"""The sets of the experiment: drawn, generated, translated, and parts of those.

renders              the source: plainly shaded people in a studio's light, which tells their colours
digi2real            Digi2Real of them: prototype, SLERP with t ~ Beta(2, 2), offset, generate, detect, align
digi2real-alpha-1    the same with t ~ Beta(1, 1), which is uniform (Table 2)
syn2auth             each render translated by UNSB, which learnt from photographs of others
real                 photographs of other people: what is to be had with consent and cameras
digi2real-...        parts of digi2real, as links: fewer images, fewer people, the most distinct people (Tables 1, 3, 4)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from d2r_fast.bench.miniature.crops import submit_crops
from d2r_fast.bench.miniature.domains import Domain
from d2r_fast.bench.miniature.generator.recipe import EVALUATION, SOURCE
from d2r_fast.bench.miniature.pairs import make_pairs
from d2r_fast.bench.miniature.processes import await_all, side_by_side
from d2r_fast.bench.miniature.reproduce.config import MOST_OF_A_KIND, ReproduceConfig, Scale
from d2r_fast.engine.config import GenerateConfig
from d2r_fast.engine.embed import embed_source
from d2r_fast.engine.files import make_folder
from d2r_fast.engine.offset import make_offset
from d2r_fast.engine.rank import rank_identities, read_ranking
from d2r_fast.engine.source import Image, open_source
from d2r_fast.recognition.iresnet import IMAGE_SIZE
from d2r_fast.translation.config import TranslateConfig
from d2r_fast.translation.training.config import TransferConfig

RENDERS, DIGI2REAL, SYN2AUTH, REAL = MAIN = ("renders", "digi2real", "syn2auth", "real")
SOURCE_DOMAIN: Domain = "studio"
UNIFORM = "digi2real-alpha-1"
ALPHAS = {DIGI2REAL: 2.0, UNIFORM: 1.0}
TARGET, HELD, BENCHMARKS, SUITE = "target", "held", "benchmarks", "held"
FIRST = {
    RENDERS: SOURCE,
    REAL: SOURCE + MOST_OF_A_KIND,
    TARGET: SOURCE + 2 * MOST_OF_A_KIND,
    HELD: EVALUATION,
}
"""First identity of what is drawn: nobody is in two."""
RANKING, OFFSET, TRANSLATION = "ranking.csv", "offset.safetensors", "translation"
TRAINED_CROP = 64
"""Pixels that the translation learns from at once."""


@dataclass(frozen=True)
class Part:
    """Some of the generated images: of so many identities, the most distinct or in the order that they have, and so
    many of each; None for all."""

    identities: int | None = None
    images: int | None = None
    distinct: bool = False


def parts_of(scale: Scale) -> dict[str, Part]:
    """The parts by name: Digi2Real's Tables 1, 3 and 4 in small."""
    third, quarter = scale.images // 3, scale.identities // 4
    return {
        f"{DIGI2REAL}-images-{third}": Part(images=third),
        f"{DIGI2REAL}-images-{2 * third}": Part(images=2 * third),
        f"{DIGI2REAL}-identities-{quarter}": Part(identities=quarter),
        f"{DIGI2REAL}-identities-{2 * quarter}": Part(identities=2 * quarter),
        f"{DIGI2REAL}-distinct-{quarter}": Part(identities=quarter, distinct=True),
        f"{DIGI2REAL}-distinct-{2 * quarter}": Part(identities=2 * quarter, distinct=True),
    }


def names_of(config: ReproduceConfig) -> list[str]:
    """The sets that networks are trained on, in the order of the tables."""
    return [*MAIN] if config.quick else [*MAIN, UNIFORM, *parts_of(config.scale)]


def draw_all(config: ReproduceConfig) -> None:
    """What the renderer and the camera see, and the pairs to verify; what is there is left alone."""
    scale = config.scale
    counts: dict[str, tuple[Domain, int, int]] = {
        RENDERS: (SOURCE_DOMAIN, scale.identities, scale.images),
        REAL: ("snapshots", scale.identities, scale.images),
        TARGET: ("snapshots", scale.target_identities, scale.target_images),
        HELD: ("snapshots", scale.held_identities, scale.held_images),
    }
    with side_by_side(config.device) as pool:
        drawing = [
            drawn
            for name, (domain, identities, images) in counts.items()
            for drawn in submit_crops(
                pool, domain, config.facekit, config.out / name,
                identities=range(FIRST[name], FIRST[name] + identities), images_per_identity=images,
                seed=config.seed, device=config.device,
            )
        ]  # fmt: skip
        await_all("draw", drawing)
    pairs = config.out / BENCHMARKS / f"{SUITE}.bin"
    if not pairs.exists():
        make_folder(pairs.parent)
        make_pairs(config.out / HELD, pairs, num_pairs=scale.pairs, seed=config.seed)


def rank(config: ReproduceConfig) -> None:
    """Who is most distinct by the miniature's recogniser."""
    ranking, embeddings = config.out / RANKING, config.out / "renders.parquet"
    if ranking.exists():
        return
    embed_source(
        config.out / RENDERS, models=config.model_folder, out=embeddings, recogniser=None, source_alignment="aligned",
        detector="mtcnn", batch_size=64, device=config.device, recogniser_device="auto",
    )  # fmt: skip
    rank_identities(embeddings, out=ranking)


def measure_offset(config: ReproduceConfig) -> None:
    """From renders to photographs in the text encoder's space (Digi2Real, equation 1)."""
    offset, scale = config.out / OFFSET, config.scale
    if offset.exists():
        return
    make_offset(
        real=config.out / TARGET, rendered=config.out / RENDERS, models=config.model_folder, out=offset,
        samples=scale.target_identities * scale.target_images, seed=config.seed, recogniser=None, detector="mtcnn",
        batch_size=32, device=config.device, recogniser_device="auto",
    )  # fmt: skip


def generation_of(config: ReproduceConfig, name: str) -> GenerateConfig:
    """Digi2Real of the renders."""
    scale = config.scale
    return GenerateConfig(
        source=config.out / RENDERS, models=config.model_folder, out=config.out / name, ranking=config.out / RANKING,
        clip_offset=config.out / OFFSET, images_per_identity=scale.images, source_images_per_identity=scale.latents,
        alpha=ALPHAS[name], source_alignment="aligned", steps=scale.steps, guidance=scale.guidance,
        format="imagefolder", image_format="png", seed=config.seed, device=config.device,
    )  # fmt: skip


def translation_training_of(config: ReproduceConfig) -> TransferConfig:
    """UNSB as published, but for a smaller generator, fewer and smaller crops, the mean of its weights and its
    contrastive weight, as docs/transfer.md found them."""
    scale = config.scale
    return TransferConfig(
        method="unsb", source=config.out / RENDERS, target=config.out / TARGET, out=config.out / TRANSLATION,
        size=TRAINED_CROP, load_size=IMAGE_SIZE, steps=scale.transfer_steps, ngf=16, ndf=32, num_blocks=5,
        average=0.995, lambda_nce=4, seed=config.seed, num_threads=1, device=config.device,
        pictures_every=max(1, scale.transfer_steps // 4),
    )  # fmt: skip


def translation_of(config: ReproduceConfig) -> TranslateConfig:
    """Every render through it, in one step, which keeps most of who it is (docs/transfer.md)."""
    return TranslateConfig(
        method="unsb", source=config.out / RENDERS, weights=config.out / TRANSLATION, out=config.out / SYN2AUTH,
        nfe=1, seed=config.seed, backend="torch", device=config.device,
    )  # fmt: skip


def link_parts(config: ReproduceConfig) -> None:
    """The parts, as folders of links into the generated set, relative so that all of it can be moved."""
    whole = open_source(config.out / DIGI2REAL)
    images = {identity.name: list(identity.images) for identity in whole.identities}
    distinct = [name for name in read_ranking(config.out / RANKING) if name in images]
    for name, part in parts_of(config.scale).items():
        for identity in (distinct if part.distinct else sorted(images, key=int))[: part.identities]:
            folder = config.out / name / identity
            make_folder(folder)
            for image in spread(images[identity], part.images):
                link = folder / image.name
                if not link.is_symlink():
                    link.symlink_to(os.path.relpath(image.path, folder))


def spread(images: Sequence[Image], num: int | None) -> list[Image]:
    """So many of them, evenly: those of one latent follow each other."""
    if num is None or num >= len(images):
        return list(images)
    return [images[place * len(images) // num] for place in range(num)]
