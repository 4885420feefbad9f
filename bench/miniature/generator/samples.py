"""What a first run begins with: renders of a few people, and the offset that leads from renders to snapshots."""

from pathlib import Path

from d2r_fast.bench.miniature.crops import crop_domain
from d2r_fast.bench.miniature.generator.recipe import GENERATOR, SOURCE, MiniatureRecipe
from d2r_fast.engine.offset import make_offset

PEOPLE, SHOTS = 8, 5
"""Of those renders."""
LEARNT_FROM, LEARNT_SHOTS = 100, 4
"""People whom the offset is measured on, in either domain, and images of each."""


def draw_samples(recipe: MiniatureRecipe, facekit: Path, out: Path, *, device: str) -> None:
    """Renders of people whom datasets are made from, as <person>/<image>.png; what is there is left alone.

    Raises:
        UserError: no head there, or `out` cannot be written to.
        RunError: the disk is full.
    """
    crop_domain(
        "studio", facekit, out, identities=range(SOURCE, SOURCE + PEOPLE), images_per_identity=SHOTS,
        seed=recipe.seed, device=device,
    )  # fmt: skip


def measure_offset(
    recipe: MiniatureRecipe, facekit: Path, out: Path, *, photographs: Path, models: Path, rendered: Path,
    device: str,
) -> None:  # fmt: skip
    """Write the offset to `out`, from `photographs` and from renders of others, which are drawn into `rendered`.

    Raises:
        UserError: no head there, or `out` cannot be written to.
        RunError: the disk is full.
    """
    if out.exists():
        return
    crop_domain(
        "studio", facekit, rendered, identities=range(GENERATOR, GENERATOR + LEARNT_FROM),
        images_per_identity=LEARNT_SHOTS, seed=recipe.seed, device=device,
    )  # fmt: skip
    make_offset(
        real=photographs, rendered=rendered, models=models, out=out, samples=LEARNT_FROM * LEARNT_SHOTS,
        seed=recipe.seed, recogniser=None, detector="mtcnn", batch_size=32, device=device, recogniser_device="auto",
    )  # fmt: skip
