"""Division of multi-label data so that every part has its share of every label (Sechidis et al. 2011)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mldec.data.index import Ragged


def stratify(positives: Ragged, num_labels: int, shares: Sequence[float], *, seed: int) -> np.ndarray:
    """The part of each image, by iterative stratification.

    The label with the fewest images left is distributed first, each of its images to the part that lacks that label
    most; so rare labels, which random parts distribute worst, are distributed best. Then come images without a label.

    Args:
        positives: (S,) lists of columns.
        num_labels: the number of columns.
        shares: of each part; they sum to 1.
        seed: decides between equal parts.

    Returns:
        (S,) int64 part of each image.
    """
    rng = np.random.default_rng(seed)
    num_images = len(positives)
    lists = [np.unique(positives[row]) for row in range(num_images)]
    rows = np.repeat(np.arange(num_images), [len(columns) for columns in lists])
    columns = np.concatenate([*lists, np.empty(0, np.int64)]).astype(np.int64)
    left = np.bincount(columns, minlength=num_labels)
    lacking = np.outer(shares, left)  # (parts, labels)
    capacity = np.array(shares) * num_images  # (parts,)
    by_label = np.argsort(columns, kind="stable")
    starts = np.concatenate([[0], np.cumsum(left)])

    parts = np.full(num_images, -1, np.int64)
    left = left.astype(float)
    while (waiting := left > 0).any():
        label = int(np.where(waiting, left, np.inf).argmin())
        candidates = rows[by_label[starts[label] : starts[label + 1]]]
        for row in rng.permutation(candidates[parts[candidates] < 0]).tolist():
            part = _neediest(lacking[:, label], capacity, rng)
            parts[row] = part
            lacking[part, lists[row]] -= 1
            capacity[part] -= 1
            left[lists[row]] -= 1
    for row in rng.permutation(np.flatnonzero(parts < 0)).tolist():
        parts[row] = _neediest(capacity, capacity, rng)
        capacity[parts[row]] -= 1
    return parts


def _neediest(lacking: np.ndarray, capacity: np.ndarray, rng: np.random.Generator) -> int:
    """The part that lacks most; among equals the one with most capacity, then a random one."""
    best = np.flatnonzero(lacking > lacking.max() - 1e-9)
    if len(best) > 1:
        best = best[capacity[best] > capacity[best].max() - 1e-9]
    return int(best[0] if len(best) == 1 else rng.choice(best))
