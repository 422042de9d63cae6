"""Precision, recall and F1 of multi-label predictions, at a threshold or for the k best labels of each sample.

CF1 is the usual one of the field: the harmonic mean of the mean per-class precision and recall. The published
validation script prints something else in its place, the mean of the per-class F1 (paper §2.4). Both are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mldec.metrics.inputs import as_arrays, row_blocks
from mldec.metrics.topk import check_k, top_k


@dataclass(frozen=True)
class F1Scores:
    """All in percent; a ratio with nothing in its denominator is 0.

    CP, CR, CF1: mean over the classes with a known positive of precision and recall, and the harmonic mean of the two.
    OP, OR, OF1: the same of all labels pooled (micro).
    FC: mean over all classes of their F1, 0 where a class has no true positive: the published script's F_C.
    """

    CP: float
    CR: float
    CF1: float
    OP: float
    OR: float
    OF1: float
    FC: float


def f1_at_threshold(scores: Any, targets: Any, threshold: float | np.ndarray = 0.5) -> F1Scores:
    """F1 where labels with a score above `threshold` (strictly, as published) are predicted.

    Args:
        scores: (S,N) floats on the scale of the threshold, usually probabilities.
        targets: (S,N) of 1 present, 0 absent, -1 unknown; unknown labels count neither for nor against.
        threshold: the published script uses 0.75; or (N,), one for each class.

    Raises:
        ValueError: shapes that do not fit, NaN scores, or targets outside {1, 0, -1}.
    """
    return _f1(*count_decisions(scores, targets, threshold))


def f1_per_class(scores: Any, targets: Any, threshold: float | np.ndarray = 0.5) -> np.ndarray:
    """(N,) F1 in percent of each class, nan where it has no known positive. Arguments as of `f1_at_threshold`."""
    true, guessed, actual = count_decisions(scores, targets, threshold)
    return np.where(actual > 0, 100 * _ratio(2 * true, guessed + actual), np.nan)


def count_decisions(
    scores: Any, targets: Any, threshold: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) each: how often a class is rightly predicted, predicted at all, and present. As of `f1_at_threshold`."""
    return _count(*as_arrays(scores, targets), lambda block: block > threshold)


def f1_at_k(scores: Any, targets: Any, k: int, skip_empty: bool = True) -> F1Scores:
    """F1 where the k highest scores of each sample are predicted; OF1 at k = 3 and 5 is that of NUS-WIDE (paper §2.5).

    Args:
        scores: (S,N) floats.
        targets: (S,N) of 1 present, 0 absent, -1 unknown; an unknown label may be among the k, but counts neither
            for nor against.
        k: 1 to N. Of equal scores the class of the lower index counts as higher.
        skip_empty: leave out samples without a known positive, as published.

    Raises:
        ValueError: shapes that do not fit, NaN scores, targets outside {1, 0, -1}, or k out of range.
    """
    scores, targets = as_arrays(scores, targets)
    check_k(k, scores.shape[1])
    return _f1(*_count(scores, targets, lambda block: top_k(block, k), skip_empty))


def _f1(true: np.ndarray, guessed: np.ndarray, actual: np.ndarray) -> F1Scores:
    """F1 of the counts of `_count`."""
    seen = actual > 0
    class_precision = _mean(_ratio(true, guessed)[seen])
    class_recall = _mean(_ratio(true, actual)[seen])
    overall_precision = float(_ratio(true.sum(), guessed.sum()))
    overall_recall = float(_ratio(true.sum(), actual.sum()))
    return F1Scores(
        CP=100 * class_precision,
        CR=100 * class_recall,
        CF1=100 * _harmonic(class_precision, class_recall),
        OP=100 * overall_precision,
        OR=100 * overall_recall,
        OF1=100 * _harmonic(overall_precision, overall_recall),
        FC=100 * _mean(_ratio(2 * true, guessed + actual)),
    )


def _count(
    scores: np.ndarray,
    targets: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    skip_empty: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) each: true positives, predicted positives, and actual ones, counted block by block.

    `predict` makes predictions of some rows of scores.
    """
    true, guessed, actual = np.zeros((3, scores.shape[1]), np.int64)
    for rows in row_blocks(scores):
        known, positive, predicted = targets[rows] >= 0, targets[rows] == 1, predict(scores[rows])
        if skip_empty:
            predicted &= positive.any(axis=1, keepdims=True)
        true += (predicted & positive).sum(axis=0)
        guessed += (predicted & known).sum(axis=0)
        actual += positive.sum(axis=0)
    return true, guessed, actual


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)  # part is 0 wherever whole is


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
