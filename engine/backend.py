"""What runs the networks: a model folder in a backend, its networks as plain functions of any number of rows."""

import hashlib
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2r_fast.engine.backends import find_backend
from d2r_fast.engine.backends.network import Network, Rows
from d2r_fast.engine.batch import rows_of
from d2r_fast.engine.build_engines import open_engine
from d2r_fast.engine.condition import Conditioner
from d2r_fast.engine.config import Precision
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.models.layout import ENCODER, UNET, VAE
from d2r_fast.engine.models.load import config_file, load_scheduler_config, load_text_model, read_skeleton
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.scheduler import UNet
from d2r_fast.engine.torch_network import cache_folder, open_torch
from d2r_fast.engine.vae import Decoder
from d2r_fast.export.networks import open_network
from d2r_fast.export.unet import image_size, pixels_per_latent

PRECISIONS: dict[torch.dtype, Precision] = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}
"""What build-engines calls an arithmetic."""


@dataclass(frozen=True, slots=True)
class Networks:
    """Everything of a model folder that sampling runs.

    Attributes:
        conditioner: face embeddings to context.
        unet: noise prediction, float32 in and out whatever it computes in.
        decoder: VAE latents to pixels, likewise.
        latent_shape: (4, h, w) of the images that are made.
        any_size: whether latents of another size are taken too.
        pixels_per_latent: image side / latent side.
        scaling_factor: of the VAE.
        scheduler_config: the folder's scheduler_config.json.
    """

    conditioner: Conditioner
    unet: UNet
    decoder: Decoder
    latent_shape: tuple[int, int, int]
    any_size: bool
    pixels_per_latent: int
    scaling_factor: float
    scheduler_config: dict[str, Any]


def open_networks(
    backend: str,
    models: Path,
    *,
    engines: Path | None,
    device: str,
    dtype: torch.dtype,
    batch_size: int,
    lora: bool,
    height: int | None,
    width: int | None,
) -> Networks:
    """Opens a model folder in the named backend.

    Args:
        backend: torch runs the folder as it is; the others run engines, which are built where they are missing.
        models: model folder.
        engines: engines folder; None for `engines_folder`.
        device: "cpu" or "cuda:N".
        dtype: arithmetic of the networks.
        batch_size: rows of one run of the UNet.
        lora: whether to merge the folder's LCM-LoRA into the UNet.
        height, width: of the images in pixels; None: what the UNet was trained on.

    Raises:
        UserError: no such backend, no such folder, or networks that do not fit together.
        RunError: an engine cannot be built.
    """
    find_backend(backend)
    if not models.is_dir():
        raise UserError(f"{models} is not a folder: make one by `d2r-fast models pull` or `models init`")
    _check_fit(models)
    size = image_size(models, height=height, width=width)
    scale = pixels_per_latent(models)
    scheduler_config = load_scheduler_config(models)
    network: Callable[..., Network] = (
        partial(_open_torch, models=models, device=device, size=size)
        if backend == "torch"
        else partial(
            open_engine, models=models, engines=engines or engines_folder(models), backend=backend, device=device,
            height=size[0], width=size[1],
        )
    )  # fmt: skip
    precision = PRECISIONS[dtype]
    rows = partial(rows_of, batch_size=batch_size)
    encoder = Rows(network("encoder", precision=precision, batch_size=rows("encoder"), lora=False))
    vae = Rows(network("vae", precision=precision, batch_size=rows("vae"), lora=False))
    unet = Rows(network("unet", precision=precision, batch_size=rows("unet"), lora=lora))
    return Networks(
        conditioner=_open_conditioner(models, device, encoder),
        unet=lambda latents, timesteps, context: unet(
            {"latents": latents, "timesteps": timesteps, "context": context}
        )["noise"],
        decoder=lambda latents: vae({"latents": latents})["images"],
        latent_shape=(read_skeleton(models, UNET).config.in_channels, size[0] // scale, size[1] // scale),
        any_size=backend == "torch", pixels_per_latent=scale,
        scaling_factor=read_skeleton(models, VAE).config.scaling_factor, scheduler_config=scheduler_config,
    )  # fmt: skip


def open_recogniser(
    models: Path,
    path: Path,
    *,
    backend: str,
    precision: Precision,
    engines: Path | None,
    device: str,
    batch_size: int,
) -> Recogniser:
    """Opens a face-recognition ONNX in the named backend.

    Args:
        models: model folder, which the engine belongs to.
        path: ONNX file.
        backend: auto is onnxruntime on the CPU, and on CUDA torch, which needs no other package.
        precision: its arithmetic.
        engines: engines folder; None for `engines_folder`.
        device: "cpu" or "cuda:N".
        batch_size: crops of one run on CUDA.

    Raises:
        UserError: no such file or backend, or not a recogniser.
        RunError: an engine cannot be built.
    """
    if backend == "auto":
        backend = "onnxruntime" if device == "cpu" else "torch"
    if backend == "onnxruntime" and precision == "fp32":
        return Recogniser.load(path, device=device, batch_size=batch_size)
    find_backend(backend)
    recogniser = Recogniser.load(path)
    network = (
        _open_torch(
            "arcface", models=models, device=device, size=None, precision=precision, batch_size=batch_size,
            lora=False, recogniser=path,
        )
        if backend == "torch"
        else open_engine(
            "arcface", models, engines=engines or engines_folder(models), backend=backend, precision=precision,
            device=device, batch_size=batch_size, recogniser=path,
        )
    )  # fmt: skip
    rows = Rows(network)
    # Two threads embed, sources and results; on CUDA a network has one set of buffers.
    alone = nullcontext() if device == "cpu" else Lock()

    def run(crops: NDArray[np.float32]) -> NDArray[np.float32]:
        with alone:
            embeddings = rows({"crops": torch.from_numpy(crops).to(device)})["embedding"].cpu()
        found: NDArray[np.float32] = embeddings.numpy()
        return found

    return recogniser.through(run)


def engines_folder(models: Path) -> Path:
    """Where the engines of a model folder are kept if nobody says where: a cache, by the folder's path."""
    place = models.resolve()
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:8]
    return cache_folder() / f"{place.name}-{digest}"


def _open_torch(
    name: str,
    *,
    models: Path,
    device: str,
    size: tuple[int, int] | None,
    precision: Precision,
    batch_size: int,
    lora: bool,
    recogniser: Path | None = None,
) -> Network:
    """A network straight from the model folder, for images of any size: the reference for every other backend."""
    height, width = size or (None, None)
    network = open_network(name, models, height=height, width=width, lora=lora, recogniser=recogniser)
    return open_torch(network, precision=precision, batch_size=batch_size, device=device, any_size=True)


def _open_conditioner(models: Path, device: str, encoder: Rows) -> Conditioner:
    text_model = load_text_model(models, device=device)
    return Conditioner(text_model, encode=lambda faces: encoder({"embeddings": faces})["context"])


def _check_fit(models: Path) -> None:
    """That these networks make one text-to-image model of Stable Diffusion 1's kind."""
    file = config_file(models, UNET)
    unet, vae = read_skeleton(models, UNET).config, read_skeleton(models, VAE).config
    width = read_skeleton(models, ENCODER).config.hidden_size
    if unet.cross_attention_dim != width:
        raise UserError(
            f"{file}: cross_attention_dim {unet.cross_attention_dim}, but the encoder has hidden_size "
            f"{width}: take both from one release"
        )
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        raise UserError(
            f"{file}: in_channels {unet.in_channels} and out_channels {unet.out_channels}, but the VAE has "
            f"latent_channels {vae.latent_channels}: take both from one release"
        )
    for name in ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim"):
        if unet[name] is not None:
            raise UserError(
                f"{file}: {name} is {unet[name]!r}, a UNet that needs more inputs than Arc2Face has"
            )
