"""`models init`: a model folder of random weights in the real layout, for tests, speed work and export."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from d2r_fast.engine.files import Written, write_atomic
from d2r_fast.engine.models.appearing import appearing_folder
from d2r_fast.engine.models.card import RANDOM_LICENCE, json_bytes, write_card
from d2r_fast.engine.models.configs import CONFIGS, SCHEDULER_CONFIG, Configs, Size
from d2r_fast.engine.models.layout import DETECTOR, ENCODER, LORA, RECOGNISER, SCHEDULER, UNET, VAE, Part
from d2r_fast.engine.models.random_weights import blobs, calibrate, draw, lora_specs, randomise, specs
from d2r_fast.engine.models.safetensors_file import write_safetensors
from d2r_fast.engine.models.skeleton import PREFIX, skeleton
from d2r_fast.export.detector import SCRFD, export_detector
from d2r_fast.export.recogniser import export_recogniser
from d2r_fast.recognition.iresnet import IMAGE_SIZE, IResNet

NEEDED_BYTES: dict[Size, int] = {"mini": 30_000_000, "full": 4_800_000_000}
NUM_CALIBRATION_IMAGES = 16

# What the released LCM-LoRA adapts: at rank 64 these modules of the full UNet give its 67,252,502 values.
LORA_TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip


def init_models(out: Path, *, size: Size, seed: int = 0) -> None:
    """Write random models of this size to `out`, which appears complete or not at all.

    The same size and seed give the same bytes. `mini` is 25 MB, `full` 4.7 GB: float32 throughout as the
    released files, float16 for the LoRA as the released one. Networks are written one tensor at a time, so
    that memory stays far below the files' size.

    Raises:
        UserError: `out` holds files, or cannot be made.
        RunError: the disk is too full.
    """
    configs = CONFIGS[size]
    with appearing_folder(out, needed_bytes=NEEDED_BYTES[size]) as folder:
        written = dict(_write_parts(folder, configs, seed))
        files = {file: entry.entry() for file, entry in sorted(written.items())}
        card = {"kind": "random", "size": size, "seed": seed, "licence": RANDOM_LICENCE, "files": files}
        write_card(folder, card)


def _write_parts(folder: Path, configs: Configs, seed: int) -> Iterator[tuple[str, Written]]:
    """Write every part; yields each file, relative to the folder, with its digest and length."""
    for part, config in ((UNET, configs.unet), (ENCODER, configs.encoder), (VAE, configs.vae)):
        yield _write_config(folder, part, config)
        yield _write_network(folder, part, config, seed)
    yield _write_config(folder, SCHEDULER, SCHEDULER_CONFIG)
    yield _write_recogniser(folder, configs, seed)
    yield _write_detector(folder, configs, seed)
    yield _write_lora(folder, configs, seed)


def _place(folder: Path, file: str) -> Path:
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    return path


def _write_config(folder: Path, part: Part, config: dict[str, object]) -> tuple[str, Written]:
    assert part.config is not None
    return part.config, write_atomic(_place(folder, part.config), json_bytes(config))


def _write_network(folder: Path, part: Part, config: dict[str, object], seed: int) -> tuple[str, Written]:
    file, prefix = part.weights[0], PREFIX.get(part, "")
    wanted = {prefix + name: spec for name, spec in specs(skeleton(part, config)).items()}
    shapes = {name: spec.shape for name, spec in wanted.items()}
    values = lambda name: draw(wanted[name], seed, part.name, name)  # noqa: E731  # used once, here
    return file, write_safetensors(_place(folder, file), shapes, values)


def _write_recogniser(folder: Path, configs: Configs, seed: int) -> tuple[str, Written]:
    file = RECOGNISER.weights[0]
    return file, export_recogniser(random_recogniser(configs, seed), _place(folder, file))


def _write_detector(folder: Path, configs: Configs, seed: int) -> tuple[str, Written]:
    file = DETECTOR.weights[0]
    return file, export_detector(random_detector(configs, seed), _place(folder, file))


def random_recogniser(configs: Configs, seed: int) -> IResNet:
    """The recogniser that init_models exports, in eval mode."""
    shape = configs.recogniser
    network = IResNet(shape.num_blocks, widths=shape.widths, embedding_dim=shape.embedding_dim)
    randomise(network, seed=seed, name=RECOGNISER.name)
    calibrate(network, blobs(NUM_CALIBRATION_IMAGES, IMAGE_SIZE, seed, RECOGNISER.name, "images"))
    return network


def random_detector(configs: Configs, seed: int) -> SCRFD:
    """The detector that init_models exports, in eval mode."""
    network = SCRFD(configs.detector).eval()
    randomise(network, seed=seed, name=DETECTOR.name, gain=2**0.5)  # He et al. 2015, for ReLU
    network.temper()
    return network


def _write_lora(folder: Path, configs: Configs, seed: int) -> tuple[str, Written]:
    file, network = LORA.weights[0], skeleton(UNET, configs.unet)
    targets = {
        name: tuple(module.weight.shape)
        for name, module in network.named_modules()
        if name.endswith(LORA_TARGETS)
    }
    wanted = lora_specs(targets, rank=configs.lora_rank)
    shapes = {name: spec.shape for name, spec in wanted.items()}
    values = lambda name: draw(wanted[name], seed, LORA.name, name)  # noqa: E731  # used once, here
    return file, write_safetensors(_place(folder, file), shapes, values, dtype=np.float16)
