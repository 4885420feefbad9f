"""results.json: everything that a comparison found, by column, and what it rests on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import d2r_fast
from d2r_fast.engine.device import device_name
from d2r_fast.translation.compare.config import SETTINGS, Column, CompareConfig
from d2r_fast.translation.compare.identity import Kept
from d2r_fast.translation.compare.measures import Distance, Photographs, Seen, Witness
from d2r_fast.translation.compare.pictures import Picture
from d2r_fast.translation.compare.published import SOURCE, TABLE_1, TITLES, figure_column
from d2r_fast.translation.compare.run_column import Translated
from d2r_fast.translation.config import TranslateConfig

PAGE, RESULTS, TABLE = "page.html", "results.json", "table.md"
SCHEMA = 1
Json = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One column as it came out.

    Attributes:
        weights: their files: name, SHA-256 and licence of each.
        breach: how the method breaks Syn2Auth's rule, in a few words; None where it obeys it.
        seen: by the recogniser; None where there is none, or nothing was translated.
        distance: to the photographs; likewise.
    """

    column: Column
    settled: TranslateConfig
    weights: dict[str, dict[str, str]]
    breach: str | None
    translated: Translated
    seen: Seen | None
    distance: Distance | None


def describe(
    config: CompareConfig, entries: Sequence[Entry], pictures: Sequence[Picture], *, unreadable: Sequence[str],
    witness: Witness | None, photographs: Photographs | None, device: str,
) -> Json:  # fmt: skip
    """The content of results.json: numbers are exact and finite, null is what was not measured."""
    return {
        "schema": SCHEMA,
        "source": config.source.resolve().name,
        "images": [picture.name for picture in pictures],
        "unreadable": list(unreadable),
        "columns": [describe_column(entry) for entry in entries],
        "recogniser": witness and witness.name,
        "real": photographs and describe_real(config, photographs),
        "device": device_name(device),
        "seed": config.seed,
        "published": SOURCE,
        "versions": {"d2r-fast": d2r_fast.__version__},
    }


def describe_column(entry: Entry) -> Json:
    """One column."""
    method, translated = entry.column.recipe.method, entry.translated
    published = TABLE_1.get(method)
    return {
        "name": entry.column.name,
        "method": method,
        "title": title(entry),
        "settings": {name: value for name in SETTINGS if (value := getattr(entry.settled, name)) is not None},
        "weights": entry.weights,
        "backend": entry.settled.backend,
        "precision": entry.settled.precision,
        "obeys_the_rule": entry.breach is None,
        "breach": entry.breach,
        "num_translated": sum(pixels is not None for pixels in translated.pictures),
        "failed": translated.reasons,
        "seconds_per_image": translated.seconds_per_image,
        "batch_size": translated.batch_size,
        "identity": entry.seen and describe_kept(entry.seen.kept),
        "distance": entry.distance and asdict(entry.distance),
        "published": published and asdict(published),
        "figure_3": figure_column(method, nfe=entry.settled.nfe),
    }


def title(entry: Entry) -> str:
    """The method as the paper spells it, with the settings that the column was given."""
    given = entry.column.name.split(" ", 1)[1:]
    return ", ".join([TITLES[entry.column.recipe.method], *given])


def describe_kept(kept: Kept) -> Json:
    """All that a recogniser found."""
    return {**asdict(kept), "share": kept.share, "separation": kept.separation}


def describe_real(config: CompareConfig, photographs: Photographs) -> Json:
    """The ruler of the distances."""
    assert config.real is not None
    floor = photographs.floor
    return {
        "name": config.real.resolve().name, "num_images": photographs.num, "side": config.side,
        "untranslated": photographs.before, "halves": {"mean": float(np.mean(floor)), "std": float(np.std(floor))},
    }  # fmt: skip


def dump(document: Mapping[str, Any]) -> bytes:
    """Strict JSON.

    Raises:
        ValueError: there is a NaN or an infinity in it.
    """
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
