"""The CLIP offset: mean encoder output over real photographs minus that over renders (Digi2Real equation 1).

Added to the conditional branch, it moves what is drawn from the look of renders towards that of photographs.
The paper says "CLIP representations from the encoder": taken here as the Arc2Face encoder's output (77, C),
whose first four positions come out exactly zero, because they precede the identity under a causal mask.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save

import d2r_fast
from d2r_fast.engine.condition import Conditioner
from d2r_fast.engine.console import Meter, say
from d2r_fast.engine.device import find_device
from d2r_fast.engine.embed import Embedder, embed_images, load_embedder
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.files import check_out, sha256_file, write_atomic
from d2r_fast.engine.plan import choose, normalise
from d2r_fast.engine.recogniser import Recogniser
from d2r_fast.engine.source import Image, Source, open_images
from d2r_fast.kernels.noise import CHOICE, identity_key, uniform

CHUNK = 32
"""Images read, embedded and encoded at a time."""


def make_offset(
    *, real: Path, rendered: Path, models: Path, out: Path, samples: int, seed: int, recogniser: Path | None,
    detector: str, batch_size: int, device: str, recogniser_device: str,
) -> int:  # fmt: skip
    """The `offset` command: writes the offset (77, C) float32 and where it comes from."""
    from d2r_fast.engine.models.load import encoder_file, load_conditioner

    check_out(out)
    place = find_device(device)
    embedder = load_embedder(
        models, recogniser=recogniser, alignment="auto", detector=detector, device=place,
        recogniser_device=recogniser_device, batch_size=batch_size,
    )  # fmt: skip
    conditioner = load_conditioner(models, device=place, batch_size=batch_size)
    means, counts = [], []
    for folder in (real, rendered):
        mean, count = mean_latent(open_images(folder), embedder, conditioner, samples=samples, seed=seed)
        means.append(mean)
        counts.append(count)
    offset = (means[0] - means[1]).float()
    provenance = {
        "encoder_sha256": sha256_file(encoder_file(models)), "recogniser_sha256": sha256_file(embedder.recogniser.path),
        "real": real.name, "num_real": counts[0], "rendered": rendered.name, "num_rendered": counts[1],
        "seed": seed, "d2r_fast": d2r_fast.__version__,
    }  # fmt: skip
    write_atomic(out, save({"offset": offset}, metadata={"d2r_fast": json.dumps(provenance)}))
    say(
        f"offset of {counts[0]} real and {counts[1]} rendered images, norm {offset.norm():.4g}, written to {out}"
    )
    return 0


def sample_images(source: Source, seed: int) -> Iterator[Image]:
    """All images of a source in a random order, one of every identity before a second of any.

    Folders are listed as their turn comes, so that 1,000 of 1.2 million images cost 1,000 listings.
    """
    keys = [identity_key(seed, identity.name) for identity in source.identities]
    words = uniform(torch.tensor([[key, 0, 1, CHOICE] for key in keys]), 1)[:, 0]
    order = [int(place) for place in torch.argsort(words, stable=True)]
    for turn in count():
        if turn:
            order = [place for place in order if turn < len(source.identities[place].images)]
        if not order:
            return
        for place in order:
            images = source.identities[place].images
            if turn < len(images):
                yield images[choose(len(images), keys[place])[turn]]


def mean_latent(
    source: Source, embedder: Embedder, conditioner: Conditioner, *, samples: int, seed: int
) -> tuple[torch.Tensor, int]:
    """Mean encoder output over up to `samples` usable images: (77, C) float64, and how many there were.

    Raises:
        UserError: no image of the source can be embedded.
    """
    images = sample_images(source, seed)
    total, used, unusable = torch.zeros((), dtype=torch.float64), 0, 0
    with ThreadPoolExecutor() as pool, Meter(f"embed {source.name}", total=samples) as meter:
        while used < samples and (chunk := tuple(islice(images, min(CHUNK, samples - used)))):
            found, embeddings, failed = embed_images(chunk, source, embedder, pool)
            unusable += len(failed)
            if found:
                unit = torch.from_numpy(normalise(embeddings).astype(np.float32))
                total = total + conditioner(unit).double().sum(dim=0).cpu()
                used += len(found)
                meter.advance(len(found))
    if used == 0:
        raise UserError(f"no image in {source.root} can be embedded: give a folder of decodable faces")
    say(f"{source.root}: {used} images, {unusable} unusable passed over")
    return total / used, used


def read_offset(path: Path, *, models: Path, recogniser: Recogniser) -> torch.Tensor:
    """The offset (77, C) of a file, if it was made with this encoder and this recogniser.

    Raises:
        UserError: no such file, not an offset, of other networks, not finite.
    """
    from d2r_fast.engine.models.load import encoder_file

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            offset: torch.Tensor = file.get_tensor("offset")
            provenance: dict[str, Any] = json.loads((file.metadata() or {})["d2r_fast"])
        encoder = provenance.get("encoder_sha256")
    except (OSError, KeyError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not the output of `d2r-fast offset`: {error}") from None
    if encoder != sha256_file(encoder_file(models)):
        raise UserError(
            f"offset {path} was made with another encoder than {models}: run `d2r-fast offset` with these models"
        )
    if provenance.get("recogniser_sha256") != sha256_file(recogniser.path):
        raise UserError(
            f"offset {path} was made with another recogniser than {recogniser.path}: run `d2r-fast offset` with it"
        )
    if not torch.isfinite(offset).all():
        raise UserError(
            f"offset {path} holds values that are not finite: make it again with `d2r-fast offset`"
        )
    return offset
