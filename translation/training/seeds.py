"""Every random number of a run, from its seed and what the number is for."""

import numpy as np
import torch

from d2r_fast.kernels.noise import identity_key


def seed_of(seed: int, use: str) -> int:
    """A 63-bit seed of its own for every use, as of "weights of the generator" or "noise of step 7"."""
    return identity_key(seed, use) & (2**63 - 1)


def torch_draws(seed: int, use: str) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed_of(seed, use))


def words(seed: int, use: str) -> np.random.Philox:
    """A stream of 64-bit words; numpy promises these to stay as they are, but not what its distributions make of
    them."""
    return np.random.Philox(key=seed_of(seed, use))
