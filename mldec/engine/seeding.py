"""Random numbers: from the seed of the run, and from one seed per step."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch: initial weights are a function of `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def step_seed(seed: int, step: int, rank: int = 0, *, mixing: bool = False) -> int:
    """A seed for all that is random in one step on the device, or for its `mixing` of images: two streams, since two
    generators of one seed draw the same numbers. Of several processes each has its own."""
    entropy = (seed, step, rank) if rank else (seed, step)
    sequence = np.random.SeedSequence(entropy, spawn_key=(1,) if mixing else ())
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_device(device: torch.device, seed: int) -> None:
    """Seed torch's generators of the host and of `device`; `torch.manual_seed` visits every backend, for half a ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
