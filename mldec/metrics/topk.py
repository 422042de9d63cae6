"""Top-k: the k classes that score highest in each sample, and how often a correct one is among them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mldec.metrics.inputs import as_arrays, row_blocks


def top_k_accuracy(scores: Any, targets: Any, k: int = 1) -> float:
    """The share of samples, in percent, with a positive among their k highest scores.

    For single-label data this is the usual top-k accuracy. Samples without a known positive are left out; nan if
    none is left.

    Args:
        scores: (S,N) floats.
        targets: (S,N) of 1 present, 0 absent, -1 unknown.
        k: 1 to N. Of equal scores the class of the lower index counts as higher.

    Raises:
        ValueError: shapes that do not fit, NaN scores, targets outside {1, 0, -1}, or k out of range.
    """
    scores, targets = as_arrays(scores, targets)
    check_k(k, scores.shape[1])
    relevant = hits = 0
    for rows in row_blocks(scores):
        positive = targets[rows] == 1
        relevant += int(positive.any(axis=1).sum())
        hits += int((top_k(scores[rows], k) & positive).any(axis=1).sum())
    return 100 * hits / relevant if relevant else float("nan")


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Bool (S,N): the k (1 to N) highest scores of each row, of equal scores those of lower index."""
    place = scores.shape[1] - k
    kth = np.partition(scores, place, axis=1)[:, place, None]
    above = scores > kth
    tied = scores == kth
    left = k - above.sum(axis=1, keepdims=True)
    return above | (tied & (tied.cumsum(axis=1) <= left))


def check_k(k: int, num_classes: int) -> None:
    """Raise ValueError unless k is 1 to N."""
    if not 1 <= k <= num_classes:
        raise ValueError(f"k={k}: must be 1 to {num_classes}, the number of classes")
