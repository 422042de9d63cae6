"""Parts of the fast reader of tables that its results alone do not show."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mldec.data.own.arrow_rows import _Paths


@pytest.mark.parametrize("seed", range(20))
def test_equal_paths_are_found_among_many_that_share_a_place(seed: int) -> None:
    """Whether any hash occurs twice is found by a table of few places, so places are contested."""
    rng = random.Random(seed)
    numbers = rng.sample(range(10**6), 3000)
    if seed % 2:
        numbers.append(rng.choice(numbers))
    rng.shuffle(numbers)
    paths = _Paths()
    paths._hashes = [np.array([n * 0x9E3779B97F4A7C15 % 2**64 for n in part], np.uint64) for part in (numbers, [])]
    assert paths.repeated() == bool(seed % 2)


def test_equal_paths_are_found_where_all_share_one_place() -> None:
    paths = _Paths()
    for hashes in ([1, 2, 3], [1, 1, 2], [1, 2, 2], [5], [2**64 - 1, 7, 2**64 - 1]):
        paths._hashes = [np.array(hashes, np.uint64)]
        assert paths.repeated() == (len(set(hashes)) < len(hashes))
