"""Train the miniature: recogniser, VAE, text encoder and UNet, from a head and nothing else.

    python -m d2r_fast.bench.miniature.generator.make FACEKIT --out made        # two hours on two cores

What is there already is left alone, and a training that was stopped goes on. `made/miniature` is the result as a
package can carry it: networks packed small, and what a first run begins with. `made/models` is their model folder.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2r_fast.bench.machine import describe_machine, describe_versions, revision
from d2r_fast.bench.miniature.arithmetic import precision_of
from d2r_fast.bench.miniature.crops import submit_crops
from d2r_fast.bench.miniature.experiment import Clock, made_of, settle
from d2r_fast.bench.miniature.generator.autoencoder import encode, train_autoencoder
from d2r_fast.bench.miniature.generator.denoiser import train_denoiser
from d2r_fast.bench.miniature.generator.pack import pack
from d2r_fast.bench.miniature.generator.pictures import (
    draw_block,
    embed,
    missing_blocks,
    read_pictures,
)
from d2r_fast.bench.miniature.generator.recipe import RECOGNISER, MiniatureRecipe
from d2r_fast.bench.miniature.generator.samples import draw_samples, measure_offset
from d2r_fast.bench.miniature.processes import await_all, side_by_side
from d2r_fast.engine.config import read_settings
from d2r_fast.engine.console import say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.files import make_folder
from d2r_fast.engine.models.miniature import OFFSET, PACKED, RENDERS, unpack_miniature
from d2r_fast.engine.source import open_source
from d2r_fast.engine.stops import stop_when_told
from d2r_fast.recognition.embedder import open_embedder
from d2r_fast.recognition.training.config import TrainConfig
from d2r_fast.recognition.training.train import train


def make(recipe: MiniatureRecipe, facekit: Path, out: Path, *, device: str = "cpu") -> dict[str, float]:
    """Everything, into `out`; returns what took how many seconds.

    Raises:
        UserError: no head there, or `out` holds another recipe's.
        RunError: the disk is full, or a training failed.
    """
    settle(
        out, recipe.model_dump(mode="json") | made_of(facekit, device) | {"precision": precision_of(device)}
    )
    clock, kept = Clock("miniature", out), dict[str, Any]()

    def part(name: str, made: Any) -> None:
        clock(name, lambda: kept.update({name: made()}))

    part("photographs", lambda: draw_photographs(recipe, facekit, out, device=device))
    part("recogniser", lambda: train_recogniser(recipe, out, device=device))
    pictures = read_pictures(recipe, out / "blocks")
    part("vae", lambda: train_autoencoder(recipe, pictures.whole, out / "vae", device=device))
    vae = kept["vae"]
    latents = encode(vae, pictures.whole) * vae.config.scaling_factor
    embeddings = embed(open_embedder(out / "recogniser", device=device), pictures.crops)
    part("denoiser", lambda: train_denoiser(recipe, latents, embeddings, out / "denoiser", device=device))
    shipped, models = out / "miniature", out / "models"
    packed = shipped / PACKED
    named = sum(len(person.images) for person in open_source(out / "people").identities)
    pack(
        recipe, recogniser=out / "recogniser", vae=vae, denoiser=kept["denoiser"],
        photographs={"named": named, "unnamed": len(pictures.whole)}, out=packed,
    )  # fmt: skip
    if not models.exists():
        unpack_miniature(packed, models)
    part("samples", lambda: draw_samples(recipe, facekit, shipped / RENDERS, device=device))
    part(
        "offset",
        lambda: measure_offset(
            recipe, facekit, shipped / OFFSET, photographs=out / "people", models=models,
            rendered=out / "rendered", device=device,
        ),
    )  # fmt: skip
    return clock.seconds


def draw_photographs(recipe: MiniatureRecipe, facekit: Path, out: Path, *, device: str) -> None:
    """What the recogniser learns from into `out`/people, and the generator into `out`/blocks: nobody is in both.

    Raises:
        UserError: no head there, or `out` cannot be written to.
        RunError: the disk is full.
    """
    make_folder(out / "blocks")
    people = range(RECOGNISER, RECOGNISER + recipe.recogniser_identities)
    with side_by_side(device) as pool:
        drawing = submit_crops(
            pool, "snapshots", facekit, out / "people", identities=people,
            images_per_identity=recipe.recogniser_images, seed=recipe.seed, device=device,
        ) + [
            pool.submit(draw_block, recipe, facekit, path, people, device=device)
            for path, people in missing_blocks(recipe, out / "blocks")
        ]  # fmt: skip
        await_all("photographs", drawing)


def train_recogniser(recipe: MiniatureRecipe, out: Path, *, device: str) -> None:
    """IR-18 with AdaFace on photographs of people whom nothing else is made from."""
    epochs = recipe.recogniser_epochs
    train(
        TrainConfig(
            data=out / "people", out=out / "recogniser", backbone="ir_18", width=recipe.recogniser_width,
            embedding_dim=recipe.embedding_dim, epochs=epochs,
            batch_size=recipe.recogniser_batch_size, warmup_epochs=min(1.0, epochs / 4),
            scale=recipe.recogniser_logits, margin=recipe.recogniser_margin, augment="adaface", seed=recipe.seed,
            device=device, precision=precision_of(device),
        )
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("facekit", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, help="YAML of what differs from the recipe as it stands")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default cpu)")
    given = parser.parse_args(arguments)
    try:
        recipe = MiniatureRecipe(**(read_settings(given.recipe, MiniatureRecipe) if given.recipe else {}))
        seconds = make(recipe, given.facekit, given.out, device=find_device(given.device))
    except (UserError, RunError) as error:
        say(f"miniature: {error}")
        return error.exit_code
    about = {
        "machine": describe_machine(find_device(given.device)),
        "versions": describe_versions(),
        "revision": revision(),
    }
    print(
        json.dumps(
            {"name": "miniature", "recipe": recipe.model_dump(mode="json"), "seconds": seconds, **about}
        )
    )
    return 0


if __name__ == "__main__":
    stop_when_told()
    sys.exit(main())
