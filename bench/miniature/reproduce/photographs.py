"""How many photographs stand behind a set: whoever made it learnt from them, with the names of the people or without.

Nobody on them is in the set or is verified. But they are of the world that is verified on, and the more there are, the
less a comparison says of what is made from renders alone.
"""

from d2r_fast.bench.miniature.reproduce.config import ReproduceConfig
from d2r_fast.bench.miniature.reproduce.sets import REAL, RENDERS, SYN2AUTH, TARGET
from d2r_fast.engine.models.card import PHOTOGRAPHS, read_card
from d2r_fast.engine.source import open_source

Counts = dict[str, int]


def behind(config: ReproduceConfig, name: str) -> Counts | None:
    """Of a set; None where it was made by networks of which that is not known."""
    if name == RENDERS:
        return {"named": 0, "unnamed": 0}
    if name == REAL:
        return {"named": _count(config, REAL), "unnamed": 0}
    unnamed = _count(config, TARGET)
    if name == SYN2AUTH:
        return {"named": 0, "unnamed": unnamed}
    of_models = behind_models(config)
    return of_models and {"named": of_models["named"], "unnamed": of_models["unnamed"] + unnamed}


def behind_guide(config: ReproduceConfig) -> Counts | None:
    """Of the network that Digi2Real is steered by."""
    of_models = behind_models(config)
    return of_models and {"named": of_models["named"], "unnamed": 0}


def behind_models(config: ReproduceConfig) -> Counts | None:
    """Of recogniser (named) and generator, by the card of the model folder.

    Raises:
        UserError: the card is not one.
    """
    card = read_card(config.model_folder)
    found: Counts | None = card.get(PHOTOGRAPHS) if card else None
    return found


def _count(config: ReproduceConfig, name: str) -> int:
    return sum(len(identity.images) for identity in open_source(config.out / name).identities)
