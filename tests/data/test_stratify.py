"""Properties: each image in one part, parts as large as required, labels distributed far better than at random."""

import numpy as np
import pytest

from mldec.data.index import Ragged
from mldec.data.stratify import stratify

SHARES = (0.7, 0.2, 0.1)


def skewed(num_images: int, num_labels: int, seed: int = 0) -> tuple[Ragged, np.ndarray]:
    """Labels from frequent to rare, some images without any."""
    rng = np.random.default_rng(seed)
    rates = 0.4 * 0.93 ** np.arange(num_labels)
    matrix = rng.random((num_images, num_labels)) < rates
    rows, columns = np.nonzero(matrix)
    return Ragged.from_rows(rows, columns.astype(np.int32), num_images), matrix


def imbalance(matrix: np.ndarray, parts: np.ndarray) -> float:
    """Mean distance of the shares of each label's images from the wanted ones."""
    counts = np.stack([matrix[parts == part].sum(axis=0) for part in range(len(SHARES))])
    return float(np.abs(counts / counts.sum(axis=0) - np.array(SHARES)[:, None]).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_spread_by_the_shares(seed: int) -> None:
    positives, matrix = skewed(1500, 60, seed)
    parts = stratify(positives, 60, SHARES, seed=seed)
    assert set(parts.tolist()) == {0, 1, 2}
    sizes = np.bincount(parts)
    assert np.abs(sizes - 1500 * np.array(SHARES)).max() <= 0.02 * 1500
    by_chance = np.random.default_rng(seed).choice(3, 1500, p=SHARES)
    assert imbalance(matrix, parts) < imbalance(matrix, by_chance) / 3
    for column in np.flatnonzero(matrix.sum(axis=0) >= 10):
        assert set(parts[matrix[:, column]].tolist()) == {0, 1, 2}


def test_the_seed_decides_and_nothing_else_does() -> None:
    positives, _ = skewed(300, 20)
    first = stratify(positives, 20, SHARES, seed=3)
    np.testing.assert_array_equal(first, stratify(positives, 20, SHARES, seed=3))
    assert (first != stratify(positives, 20, SHARES, seed=4)).any()


def test_images_without_labels_fill_up() -> None:
    parts = stratify(Ragged.empty(100), 5, (0.75, 0.25), seed=0)
    assert np.bincount(parts).tolist() == [75, 25]


def test_a_hundred_thousand_images() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(100_000), 3)
    columns = (1000 * rng.random(300_000) ** 3).astype(np.int32)
    parts = stratify(Ragged.from_rows(rows, columns, 100_000), 1000, SHARES, seed=0)
    assert np.abs(np.bincount(parts) / 100_000 - SHARES).max() < 0.01
