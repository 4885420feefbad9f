"""What a model folder holds: one table of its parts, their files, where they are published and how licensed.

M/arc2face/{config.json,diffusion_pytorch_model.safetensors}    the denoising UNet
M/encoder/{config.json,model.safetensors|pytorch_model.bin}     the CLIP text tower that takes a face
M/vae/{config.json,diffusion_pytorch_model.safetensors}
M/scheduler/scheduler_config.json
M/antelopev2/arcface.onnx                                       the recogniser that Arc2Face was trained on
M/antelopev2/scrfd_10g_bnkps.onnx                               optional, a detector
M/lcm-lora/pytorch_lora_weights.safetensors                     optional, sampling in 2 to 4 steps
M/models.json                                                   where the files came from, with their sha256
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import sha256_file
from d2r_fast.engine.models.card import RANDOM_LICENCE, is_untrained, read_card

HASHING_THREADS = 4


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on the Hugging Face hub at a pinned commit, and its licence as its card names it."""

    name: str
    revision: str
    licence: str


# Each revision stands in several unrelated public projects that pin it, beside the repository's name, and the
# licences in stored copies of the model cards; neither could be checked against the live hub when written.
ARC2FACE = Repository("FoivosPar/Arc2Face", "321709b2e9697ea2a5bd06c8a51b340592333e1e", "MIT")
STABLE_DIFFUSION = Repository(
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    "CreativeML OpenRAIL-M",
)
LCM_LORA = Repository(
    "latent-consistency/lcm-lora-sdv1-5", "cf2fced511dbe7e26c8d1d397e728fbab875db4b", "OpenRAIL++"
)
ANTELOPE = Repository(
    "DIAMONIK7777/antelopev2",
    "ba0c3e10f4548361eb9a63265d87ce1140ab5a05",
    "InsightFace model pack: non-commercial research only",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One network, or the scheduler, of a model folder. Paths are relative to it, with forward slashes."""

    name: str
    model_class: str
    config: str | None
    """The file that says its shape; None for what is all in one file."""
    weights: tuple[str, ...]
    """Files that may hold its weights, the preferred one first; none for the scheduler."""
    repository: Repository
    downloads: tuple[tuple[str, str], ...]
    """(file in the repository, file in the model folder)."""
    optional_for: str | None = None
    """What an optional part serves; None where every run needs it."""

    def find_weights(self, models: Path) -> Path | None:
        """The weight file that is there, the preferred one where there are several."""
        return next((models / file for file in self.weights if (models / file).is_file()), None)


UNET = Part(
    "unet", "UNet2DConditionModel",
    config="arc2face/config.json",
    weights=("arc2face/diffusion_pytorch_model.safetensors",),
    repository=ARC2FACE,
    downloads=(
        ("arc2face/config.json", "arc2face/config.json"),
        ("arc2face/diffusion_pytorch_model.safetensors", "arc2face/diffusion_pytorch_model.safetensors"),
    ),
)  # fmt: skip
ENCODER = Part(
    "encoder", "CLIPTextModel",
    config="encoder/config.json",
    weights=("encoder/model.safetensors", "encoder/pytorch_model.bin"),
    repository=ARC2FACE,
    downloads=(
        ("encoder/config.json", "encoder/config.json"),
        ("encoder/pytorch_model.bin", "encoder/pytorch_model.bin"),
    ),
)  # fmt: skip
VAE = Part(
    "vae", "AutoencoderKL",
    config="vae/config.json",
    weights=("vae/diffusion_pytorch_model.safetensors",),
    repository=STABLE_DIFFUSION,
    downloads=(
        ("vae/config.json", "vae/config.json"),
        ("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
    ),
)  # fmt: skip
SCHEDULER = Part(
    "scheduler", "PNDMScheduler",
    config="scheduler/scheduler_config.json",
    weights=(),
    repository=STABLE_DIFFUSION,
    downloads=(("scheduler/scheduler_config.json", "scheduler/scheduler_config.json"),),
)  # fmt: skip
RECOGNISER = Part(
    "recogniser", "ONNX, IResNet",
    config=None,
    weights=("antelopev2/arcface.onnx",),
    repository=ARC2FACE,
    downloads=(("arcface.onnx", "antelopev2/arcface.onnx"),),
)  # fmt: skip
DETECTOR = Part(
    "detector", "ONNX, SCRFD",
    config=None,
    weights=("antelopev2/scrfd_10g_bnkps.onnx",),
    repository=ANTELOPE,
    downloads=(("scrfd_10g_bnkps.onnx", "antelopev2/scrfd_10g_bnkps.onnx"),),
    optional_for="--detector scrfd",
)  # fmt: skip
LORA = Part(
    "lcm-lora", "LoRA of the UNet",
    config=None,
    weights=("lcm-lora/pytorch_lora_weights.safetensors",),
    repository=LCM_LORA,
    downloads=(("pytorch_lora_weights.safetensors", "lcm-lora/pytorch_lora_weights.safetensors"),),
    optional_for="--sampler lcm",
)  # fmt: skip
MTCNN_FILES = tuple(f"mtcnn/assets/weights/{name}.lz4" for name in ("pnet", "rnet", "onet"))
MTCNN_LICENCE = "MIT"
"""MTCNN's three networks come with the Python package mtcnn, not with the model folder."""
PARTS = (UNET, ENCODER, VAE, SCHEDULER, RECOGNISER, DETECTOR, LORA)


def licence_of(file: str, card: dict[str, Any] | None) -> str:
    """The licence of one file of the layout (path relative to the folder), by the card or as published."""
    if is_untrained(card):
        return RANDOM_LICENCE
    if card is not None and "licence" in card["files"].get(file, {}):
        return str(card["files"][file]["licence"])
    part = next(part for part in PARTS if file in (part.config, *part.weights))
    return f"{part.repository.licence} (if from {part.repository.name})"


def describe_files(
    models: Path, *, recogniser: Path | None, detector: str, sampler: str
) -> tuple[dict[str, dict[str, str]], str]:
    """The networks that a run uses, as name -> {"file", "sha256", "licence"}, and what they are.

    The second value is "random" (untrained), "released" (from `models pull`), "miniature" (trained here, small) or
    "unlisted" (no models.json).
    `recogniser` is an ONNX file in place of the folder's; its licence is not known here.

    Raises:
        UserError: a file is missing.
    """
    card = read_card(models)
    used = [UNET, ENCODER, VAE, SCHEDULER] + [DETECTOR] * (detector == "scrfd") + [LORA] * (sampler == "lcm")
    found = {part.name: _own_file(models, part) for part in used + [RECOGNISER] * (recogniser is None)}
    listed = {name: (file, models / file, licence_of(file, card)) for name, file in found.items()}
    if recogniser is not None:
        if not recogniser.is_file():
            raise UserError(f"{recogniser} is missing: give --recogniser an ONNX file")
        listed[RECOGNISER.name] = (recogniser.name, recogniser, "unknown: given by --recogniser")
    for part in (UNET, ENCODER, VAE):  # scaling, heads and epsilons change images as weights do
        assert part.config is not None
        listed[f"{part.name} config"] = (
            part.config,
            _existing(models, part.config),
            licence_of(part.config, card),
        )
    sidecar = listed[RECOGNISER.name][1].with_suffix(".json")
    if sidecar.is_file():
        licence = "none needed: how pixels are normalised"
        listed[f"{RECOGNISER.name} sidecar"] = (sidecar.name, sidecar, licence)
    if detector != "scrfd":  # with a template too: sources that are not aligned go through MTCNN
        listed |= {Path(file).stem: (file, package_file(file), MTCNN_LICENCE) for file in MTCNN_FILES}
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        digests = dict(
            zip(listed, threads.map(sha256_file, (path for _, path, _ in listed.values())), strict=True)
        )
    networks = {
        name: {"file": file, "sha256": digests[name], "licence": licence}
        for name, (file, _, licence) in sorted(listed.items())
    }
    return networks, "unlisted" if card is None else str(card["kind"])


def _existing(models: Path, file: str) -> Path:
    if not (models / file).is_file():
        raise UserError(f"{models} has no {file}: see what is missing with `d2r-fast models check {models}`")
    return models / file


def _own_file(models: Path, part: Part) -> str:
    weights = part.find_weights(models)
    if weights is None and not part.weights and part.config is not None:
        weights = models / part.config
    if weights is None or not weights.is_file():
        wanted = " or ".join(part.weights) or part.config
        raise UserError(
            f"{models} has no {wanted}: see what is missing with `d2r-fast models check {models}`"
        )
    return weights.relative_to(models).as_posix()


def package_file(file: str) -> Path:
    package, _, inside = file.partition("/")
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / inside if folders else None
    if path is None or not path.is_file():
        raise UserError(
            f"the package {package}, which carries {file}, is missing: pip install '{package}>=1.0,<2'"
        )
    return path
