"""How many photographs stand behind a set: whoever made it learnt from them, with the names of the people or without.

Nobody on them is in the set or is verified. But they are of the world that is verified on, and the more there are, the
less a comparison says of what is made from renders alone.
"""

from typing import Any

from d2r_fast.bench.miniature.generator.recipe import MiniatureRecipe
from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig
from d2r_fast.bench.miniature.reproduce.sets import REAL, RENDERS, SYN2AUTH
from d2r_fast.engine.models.card import read_card

Counts = dict[str, int]


def behind(config: ReproduceConfig, name: str) -> Counts | None:
    """Of a set; None where it was made by networks of which that is not known."""
    scale = config.scale
    unnamed = scale.target_identities * scale.target_images
    if name in (RENDERS, SYN2AUTH, REAL):
        named = scale.identities * scale.images if name == REAL else 0
        return {"named": named, "unnamed": unnamed if name == SYN2AUTH else 0}
    recipe = recipe_of(config)
    if recipe is None:
        return None
    return {
        "named": recipe.recogniser_identities * recipe.recogniser_images,
        "unnamed": recipe.identities * recipe.images + unnamed,
    }


def behind_guide(config: ReproduceConfig) -> Counts | None:
    """Of the network that Digi2Real is steered by."""
    recipe = recipe_of(config)
    if recipe is None:
        return None
    return {"named": recipe.recogniser_identities * recipe.recogniser_images, "unnamed": 0}


def recipe_of(config: ReproduceConfig) -> MiniatureRecipe | None:
    """What the models were trained by, where they are a miniature."""
    card: dict[str, Any] | None = read_card(config.model_folder)
    if card is None or card["kind"] != "miniature":
        return None
    return MiniatureRecipe(**card["recipe"])
