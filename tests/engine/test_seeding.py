"""Property: one seed, one stream; neighbouring steps and seeds have nothing in common."""

from __future__ import annotations

import random

import numpy as np
import torch

from mldec.engine.seeding import seed_device, seed_everything, step_seed


def test_every_step_of_every_seed_has_a_seed_of_its_own():
    seeds = [step_seed(seed, step) for seed in range(20) for step in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [step_seed(seed, step) for seed in range(20) for step in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)  # what torch takes


def test_a_seed_decides_python_numpy_and_torch():
    draws = []
    for seed in (3, 3, 4, 2**40):
        seed_everything(seed)
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_a_device_is_seeded_as_by_torch() -> None:
    seed_device(torch.device("cpu"), 2**62 + 5)
    found = torch.rand(4)
    torch.manual_seed(2**62 + 5)
    assert torch.equal(found, torch.rand(4))


def test_mixing_draws_from_a_stream_of_its_own():
    """Two torch generators of one seed draw the same numbers: dropout's mask would tell how images are mixed."""
    plain = {step_seed(0, step, rank) for step in range(100) for rank in range(4)}
    mixing = {step_seed(0, step, rank, mixing=True) for step in range(100) for rank in range(4)}
    assert len(plain | mixing) == 800
