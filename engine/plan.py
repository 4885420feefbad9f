"""Which images to make of an identity: its latents between prototype and renders, and its image keys.

Digi2Real: the prototype of an identity is the mean of its normalised ArcFace embeddings, placed back on the
unit sphere; a latent lies on the great circle from the prototype towards the embedding of one render, at
t ~ Beta(alpha, alpha); the wanted images are spread evenly over the latents.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv

from d2r_fast.engine.marker import image_key
from d2r_fast.kernels.noise import CHOICE, MIX, uniform
from d2r_fast.kernels.slerp import slerp


@dataclass(frozen=True, slots=True)
class Job:
    """One image to make.

    Attributes:
        label: place of the identity in the dataset, from 0.
        identity: the user's name for it.
        identity_key: 64-bit key of (seed, identity) that its noise is drawn with.
        image: number of the image within the identity, from 0.
        latent: index of its latent within the identity.
        attempt: how often it has been drawn before, from 0; each attempt has its own noise.
    """

    label: int
    identity: str
    identity_key: int
    image: int
    latent: int
    attempt: int = 0

    @property
    def key(self) -> str:
        """Name of the sample in the dataset."""
        return image_key(self.label, self.image)

    def again(self) -> "Job":
        """The same image with its next attempt's noise."""
        return replace(self, attempt=self.attempt + 1)


def choose(num_images: int, identity_key: int) -> list[int]:
    """A random order of an identity's renders; the first ones that can be used are its sources.

    A pure function of the key, so that an unreadable render moves the next one up and changes nothing else.
    """
    words = uniform(torch.tensor([[identity_key, 0, 0, CHOICE]]), num_images)[0]
    return [int(index) for index in torch.argsort(words, stable=True)]


def normalise(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows of (N,D) on the unit sphere, in double precision. Zero rows stay zero."""
    wide = embeddings.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    return unit


def prototype(embeddings: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Mean of the normalised embeddings (N,D), on the unit sphere: (D,). None where they cancel out."""
    mean = normalise(embeddings).mean(axis=0)
    norm = np.linalg.norm(mean)
    # Below this the direction is rounding noise: float32 embeddings carry 6e-8.
    direction = mean / max(float(norm), np.finfo(float).tiny)
    return direction if norm > 1e-6 else None


def mix(num_latents: int, identity_key: int, alpha: float) -> NDArray[np.float64]:
    """t of each latent: (num_latents,) in (0,1), distributed as Beta(alpha, alpha)."""
    keys = torch.tensor([[identity_key, latent, 0, MIX] for latent in range(num_latents)])
    drawn: NDArray[np.float64] = betaincinv(alpha, alpha, uniform(keys, 1)[:, 0].numpy())
    return drawn


def make_latents(
    centre: NDArray[np.float64], embeddings: NDArray[np.float32], t: NDArray[np.float64]
) -> NDArray[np.float32]:
    """SLERP from the prototype (D,) towards each embedding (L,D) at t (L,): (L,D) unit vectors, float32."""
    starts = torch.from_numpy(np.broadcast_to(centre, embeddings.shape).copy())
    mixed = slerp(starts, torch.from_numpy(normalise(embeddings)), torch.from_numpy(t))
    return mixed.numpy().astype(np.float32)


def spread(num_images: int, num_latents: int, images_per_latent: int | None) -> list[int]:
    """Which latent each image is drawn from: evenly, or `images_per_latent` of each in turn."""
    if images_per_latent is not None:
        return [image // images_per_latent for image in range(num_images)]
    return [image * num_latents // num_images for image in range(num_images)]
