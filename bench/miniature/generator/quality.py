"""How good the miniature's generator is, on people whom neither it nor its recogniser has seen.

    python -m d2r_fast.bench.miniature.generator.quality FACEKIT made/models --people 60

- found: share of the pictures drawn in which MTCNN finds one face;
- genuine, impostor: mean cosine of a picture's embedding and the one that it was drawn from, or somebody else's;
- slerp: cosine to the second of two people less that to the first, at steps along the arc between them;
- offset: distance to snapshots, as `compare` measures it, of pictures drawn from renders, without and with the offset.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from d2r_fast.bench.machine import describe_machine, describe_versions, revision
from d2r_fast.bench.miniature.crops import cut, draw_and_cut
from d2r_fast.bench.miniature.domains import Domain
from d2r_fast.bench.miniature.flags import add_flags
from d2r_fast.bench.miniature.generator.pictures import Pixels, embed
from d2r_fast.bench.miniature.generator.recipe import DEVELOPMENT, MOST_PEOPLE
from d2r_fast.bench.miniature.head import Head, open_head
from d2r_fast.engine.config import Frozen
from d2r_fast.engine.console import say
from d2r_fast.engine.errors import RunError, UserError
from d2r_fast.engine.generator import Arc2FaceGenerator
from d2r_fast.engine.models.layout import RECOGNISER
from d2r_fast.engine.mtcnn import MTCNN
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.stops import stop_when_told
from d2r_fast.kernels.slerp import slerp
from d2r_fast.recognition.iresnet import IMAGE_SIZE
from d2r_fast.translation.compare.features import Space
from d2r_fast.translation.compare.mmd import squared_mmd

STEP = 100
"""From a number whose picture holds no face to the next one that is tried."""
TRIES = 50
ARC = (0.0, 0.25, 0.5, 0.75, 1.0)
FEWEST = 4
"""People: the offset is made of half of them and tried on the others, and a distance needs two pictures."""
Embeddings = NDArray[np.float32]
Json = dict[str, Any]


class QualityConfig(Frozen):
    """What is measured, on whom, and how pictures are drawn."""

    facekit: Path
    models: Path
    people: Annotated[int, Field(le=MOST_PEOPLE)] = 60
    """People to draw, at least 4: the offset is made of half of them and tried on the other half."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Sampling steps."""
    guidance: Annotated[float, Field(ge=0)] = 2.0
    """Classifier-free guidance scale."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides who is drawn, and the noise."""

    @field_validator("people")
    @classmethod
    def _enough(cls, given: int) -> int:
        if given < FEWEST:
            raise ValueError(
                f"give at least {FEWEST}: the offset is made of half of the people and tried on the other half, and "
                "each needs two"
            )
        return given


@dataclass(frozen=True)
class Trial:
    """The networks, and the settings that pictures are drawn with."""

    head: Head
    generator: Arc2FaceGenerator
    recogniser: Recogniser
    detector: MTCNN
    seed: int
    steps: int
    guidance: float

    def shots(self, domain: Domain, people: range, image: int) -> Pixels:
        """Crops (N, 112, 112, 3), one of each person: of the first number that holds a face, `image` and from there on
        in steps; RunError where so many numbers hold none that the head cannot be right."""
        found: dict[int, torch.Tensor] = {}
        while missing := [DEVELOPMENT + person for person in people if DEVELOPMENT + person not in found]:
            wanted = [(person, image) for person in missing]
            for held, _, crops in draw_and_cut(domain, self.head, self.detector, wanted, seed=self.seed):
                found |= {person: crop for (person, _), crop in zip(held, crops, strict=True)}
            image += STEP
            if image > TRIES * STEP:
                raise RunError(
                    f"no face is found in {TRIES} pictures of {len(missing)} people: check the head"
                )
        return torch.stack([found[DEVELOPMENT + person] for person in people]).numpy()

    def embed(self, crops: Pixels) -> Embeddings:
        """Unit embeddings (N, D)."""
        return embed(self.recogniser, crops)

    def pictures(self, embeddings: Embeddings, *, offset: torch.Tensor | None = None) -> Pixels:
        """Drawn from (N, D), picture i by noise of its own that does not depend on the embeddings."""
        return self.generator(
            embeddings, num_inference_steps=self.steps, guidance_scale=self.guidance, clip_offset=offset,
            seed=self.seed,
        )  # fmt: skip

    def crops(self, pictures: Pixels) -> tuple[Pixels, NDArray[np.bool_]]:
        """Crops of the pictures that hold one face, and which those are."""
        crops, good = cut(torch.from_numpy(pictures), self.detector)
        return crops.numpy(), good


def open_trial(config: QualityConfig) -> Trial:
    """UserError where the head or a network cannot be read."""
    return Trial(
        open_head(config.facekit), Arc2FaceGenerator.from_pretrained(config.models),
        Recogniser.load(config.models / RECOGNISER.weights[0]), MTCNN(), config.seed, config.steps, config.guidance,
    )  # fmt: skip


def measure(trial: Trial, *, num_people: int) -> Json:
    """All of it; RunError where fewer than two pictures hold a face, so that nothing can be measured."""
    people = range(num_people)
    given = trial.embed(trial.shots("snapshots", people, 0))
    crops, good = trial.crops(trial.pictures(given))
    if good.sum() < 2:
        raise RunError(
            f"{good.sum()} of {len(good)} pictures drawn holds a face, two are needed: train the generator for longer"
        )
    drawn = trial.embed(crops)
    return {
        "people": num_people, "steps": trial.steps, "guidance": trial.guidance,
        "found": float(good.mean()),
        "drawn": compare(drawn, given[good]),
        "snapshots": compare(trial.embed(trial.shots("snapshots", people, 1)), given),
        "slerp": measure_arc(trial, given),
        "offset": measure_offset(trial, people),
    }  # fmt: skip


def compare(found: Embeddings, given: Embeddings) -> Json:
    """Mean cosines of rows that belong together, and of those that do not."""
    cosines = found @ given.T
    own = np.eye(len(found), dtype=bool)
    genuine, impostor = float(cosines[own].mean()), float(cosines[~own].mean())
    return {"genuine": genuine, "impostor": impostor, "apart": genuine - impostor}


def measure_arc(trial: Trial, given: Embeddings) -> Json:
    """Along the arc from each person to the next, by the same noise."""
    start, end = torch.from_numpy(given), torch.from_numpy(np.roll(given, -1, axis=0))
    leaning = np.full((len(ARC), len(given)), np.nan)
    for row, t in enumerate(ARC):
        crops, good = trial.crops(trial.pictures(slerp(start, end, torch.full((len(given),), t)).numpy()))
        if len(crops):
            found = trial.embed(crops)
            leaning[row, good] = (found * (end.numpy() - start.numpy())[good]).sum(1)
    whole = ~np.isnan(leaning).any(0)
    rising = (np.diff(leaning[:, whole], axis=0) > 0).all(0)
    return {
        "t": ARC, "leaning": leaning[:, whole].mean(1).tolist() if whole.any() else None, "pairs": int(whole.sum()),
        "rising_pairs": float(rising.mean()) if whole.any() else None,
    }  # fmt: skip


def measure_offset(trial: Trial, people: range) -> Json:
    """The offset is made of half of the people, and tried on the other half."""
    learnt, tried = people[: len(people) // 2], people[len(people) // 2 :]
    condition = trial.generator.condition
    means = {
        domain: condition(trial.embed(trial.shots(domain, learnt, 0))).mean(0)
        for domain in ("snapshots", "studio")
    }
    offset = means["snapshots"] - means["studio"]
    renders, snapshots = trial.shots("studio", tried, 0), trial.shots("snapshots", tried, 1)
    given = trial.embed(renders)
    real = condition(trial.embed(snapshots)).mean(0)
    contexts = condition(given).mean(0)
    sets = {"renders": renders} | {
        name: trial.crops(trial.pictures(given, offset=added))[0]
        for name, added in (("without", None), ("with", offset))
    }
    space = Space.over(renders, snapshots, side=IMAGE_SIZE)
    return {
        "context_distance": {
            "without": float((contexts - real).norm()), "with": float((contexts + offset - real).norm()),
        },
        "distance": {
            name: squared_mmd(space(pictures), space(snapshots)) if len(pictures) > 1 else None
            for name, pictures in sets.items()
        },
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its last line is JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("facekit", type=Path)
    parser.add_argument("models", type=Path)
    add_flags(parser, QualityConfig)
    given = vars(parser.parse_args(arguments))
    try:
        config = QualityConfig(**given)
        found = measure(open_trial(config), num_people=config.people)
    except (UserError, RunError) as error:
        say(f"quality: {error}")
        return error.exit_code
    about = {"machine": describe_machine("cpu"), "versions": describe_versions(), "revision": revision()}
    print(json.dumps({"name": "miniature quality", "seed": config.seed, **found, **about}, allow_nan=False))
    return 0


if __name__ == "__main__":
    stop_when_told()
    sys.exit(main())
