"""Properties: each image in one part, parts as large as required, labels distributed far better than at random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldec.data.index import Ragged
from mldec.data.stratify import joined, pairs_of_equal, stratify

SHARES = (0.7, 0.2, 0.1)


def skewed(num_images: int, num_labels: int, seed: int = 0) -> tuple[Ragged, np.ndarray]:
    """Labels from frequent to rare, some images without any."""
    rng = np.random.default_rng(seed)
    rates = 0.4 * 0.93 ** np.arange(num_labels)
    matrix = rng.random((num_images, num_labels)) < rates
    rows, columns = np.nonzero(matrix)
    return Ragged.from_rows(rows, columns.astype(np.int32), num_images), matrix


def listed(*rows: tuple[int, ...]) -> Ragged:
    """Columns of each image."""
    values = [column for row in rows for column in row]
    return Ragged.from_counts(np.array([len(row) for row in rows]), np.array(values, np.int32))


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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 7), max_size=4), st.integers(0, 9)), min_size=1, max_size=40),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5), (0.1, 0.9), (0.34, 0.33, 0.33)]),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_first_part_has_every_label_and_no_group_is_cut(images, shares, seed, in_groups) -> None:
    lists, groups = listed(*(tuple(labels) for labels, _ in images)), np.array([group for _, group in images])
    parts = stratify(lists, 8, shares, seed=seed, groups=groups if in_groups else None)
    assert parts.shape == (len(images),)
    assert set(parts.tolist()) <= set(range(len(shares)))
    every = {label for labels, _ in images for label in labels}
    assert {label for (labels, _), part in zip(images, parts, strict=True) if part == 0 for label in labels} == every
    if in_groups:
        assert all(len(set(parts[groups == group].tolist())) == 1 for group in groups)
        alone = stratify(lists, 8, shares, seed=seed, groups=groups + 5 * 10**9)  # the numbers themselves do not count
        np.testing.assert_array_equal(parts, alone)


def test_labels_of_few_images_are_in_train_then_in_val_then_in_test() -> None:
    rare = [(1 + label,) for label in range(4) for _ in range(label + 1)]  # label 1 in one image, label 4 in four
    parts = stratify(listed(*rare, *[(0,)] * 90), 5, (0.8, 0.1, 0.1), seed=0)
    found = {label: sorted(parts[[row == (label,) for row in rare] + [False] * 90].tolist()) for label in (1, 2, 3, 4)}
    assert found == {1: [0], 2: [0, 1], 3: [0, 1, 2], 4: [0, 0, 1, 2]}
    assert np.abs(np.bincount(parts) - (80, 10, 10)).max() <= 3  # the shares of the frequent label are as they were
    assert np.bincount(parts[10:]).tolist() == [72, 9, 9]


def test_a_part_has_no_more_rare_labels_than_its_share() -> None:
    parts = stratify(listed(*[(label,) for label in range(100) for _ in range(2)]), 100, (0.8, 0.2), seed=0)
    assert np.bincount(parts).tolist() == [160, 40]  # 60 of the 100 labels are in train alone
    parts = stratify(listed(*[(label,) for label in range(100)]), 100, (0.5, 0.5), seed=0)
    assert np.bincount(parts).tolist() == [100]


def test_groups_are_spread_by_the_shares() -> None:
    positives, matrix = skewed(3000, 20)
    groups = np.sort(np.random.default_rng(0).integers(0, 300, 3000))  # of about 10 images
    parts = stratify(positives, 20, SHARES, seed=0, groups=groups)
    assert np.abs(np.bincount(parts) / 3000 - SHARES).max() < 0.01
    by_chance = np.random.default_rng(0).choice(3, 300, p=SHARES)[groups]
    assert imbalance(matrix, parts) < imbalance(matrix, by_chance) / 3
    five = stratify(listed(*[(0,)] * 50), 1, (0.8, 0.2), seed=0, groups=np.arange(50) // 10)
    assert np.bincount(five).tolist() == [40, 10]


def test_images_are_joined_by_equal_values_and_through_others() -> None:
    pairs = pairs_of_equal(["a", None, "b", "a", None, "b", "a"])
    assert pairs.tolist() == [[0, 3], [2, 5], [0, 6]]
    assert joined(7, pairs).tolist() == [0, 1, 2, 0, 3, 2, 0]
    assert joined(7, pairs, np.array([[3, 5]])).tolist() == [0, 1, 0, 0, 2, 0, 0]
    assert joined(3).tolist() == [0, 1, 2]
