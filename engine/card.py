"""The dataset's README.md: a Hugging Face dataset card, a function of the document and the counts alone."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import yaml

from d2r_fast.engine.marker import CONVERTED, GENERATED, TRANSLATED, kind_of

TEMPLATES = {GENERATED: "card.md.j2", TRANSLATED: "translated_card.md.j2", CONVERTED: "converted_card.md.j2"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"))  # fmt: skip


def render_card(document: Mapping[str, Any], totals: Mapping[str, int]) -> str:
    """Text of the card: what the images are, how they were made, by which networks under which licences.

    `document` is dataset.json, `totals` the wanted, written, rejected and failed images. No clock, no path of
    the machine: equal datasets have equal cards.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=jinja2.FunctionLoader(_read)
    )  # fmt: skip
    environment.filters["cell"] = _cell
    return environment.get_template(TEMPLATES[kind_of(document)]).render(
        metadata=yaml.safe_dump(_metadata(document, totals), sort_keys=False, allow_unicode=True),
        document=document,
        plan=document["plan"],
        totals=totals,
        image_format=document["recipe"]["image_format"],
    )


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _metadata(document: Mapping[str, Any], totals: Mapping[str, int]) -> dict[str, Any]:
    """What the Hub reads. `other`, because the networks' and the renders' terms hold together."""
    num_identities, files = document["plan"]["num_identities"], _data_files(document)
    what = "faces" if kind_of(document) == CONVERTED else "synthetic faces"
    configs = {"config_name": "default", "data_files": [{"split": "train", "path": files}]}
    return {
        "license": "other",
        "pretty_name": f"{totals['written']} {what} of {num_identities} identities",
        "task_categories": ["image-feature-extraction"],
        "tags": ["face-recognition", *_maker(document), "d2r-fast", document["format"]],
        "size_categories": [next((name for limit, name in _SIZES if totals["written"] < limit), "n>10M")],
    } | ({"configs": [configs]} if files else {})


def _data_files(document: Mapping[str, Any]) -> str | list[str] | None:
    """What the Hub shows of the dataset; None of a form that it does not know."""
    match document["format"]:
        case "webdataset":
            return "*.tar"
        case "parquet":
            return "train-*.parquet"
        case "imagefolder" if kind_of(document) == CONVERTED:
            return "*/*.*"
        case "imagefolder":
            return f"*/*.{document['recipe']['image_format']}"
    return None


def _maker(document: Mapping[str, Any]) -> list[str]:
    """Tags of what made the images."""
    if kind_of(document) == CONVERTED:
        return sorted({tag for each in document["made_from"] for tag in _maker(each)})
    if kind_of(document) == GENERATED:
        return ["synthetic", "arc2face"]
    return ["synthetic", "image-to-image", document["recipe"]["method"]]


def _cell(value: Any) -> str:
    """A value inside a Markdown table: as JSON would say it, text without its quotes."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
