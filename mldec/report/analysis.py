"""What scores (S,N) in 0..1 and three-state targets (S,N) say beyond the metrics. Unknown targets count for nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from mldec.metrics import count_decisions
from mldec.metrics.inputs import row_blocks

MOST_WRONG = 20  # labels wrongly given to an image that are counted, the most confident ones
HALVES = 0x3C00 + 1  # bit patterns of float16 from 0 to 1, which ascend as the numbers do


class Curve(NamedTuple):
    """Precision (P,) at each recall (P,), recall ascending, in 0..1."""

    recall: np.ndarray
    precision: np.ndarray


class DecisionCounts(NamedTuple):
    """By label (N,), at some threshold: found rightly, given at all, present. Integers."""

    true: np.ndarray
    given: np.ndarray
    present: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """(N,) in 0..1, nan where nothing is given."""
        return _ratio(self.true, self.given)

    @property
    def recall(self) -> np.ndarray:
        """(N,) in 0..1, nan where nothing is present."""
        return _ratio(self.true, self.present)

    @property
    def f1(self) -> np.ndarray:
        """(N,) in 0..1, nan where nothing is present."""
        return np.where(self.present > 0, _ratio(2 * self.true, self.given + self.present), np.nan)


class ErrorPairs(NamedTuple):
    """Labels that are wrongly given with labels that are present in the same images, the most frequent errors first.

    All (P,): columns of both, in how many images, and in how many of these the present one is missed.
    """

    given: np.ndarray
    present: np.ndarray
    images: np.ndarray
    missed: np.ndarray


def precision_recall(scores: np.ndarray, targets: np.ndarray) -> Curve:
    """The curve of one label from scores (S,) and targets (S,): its corners: where recall grows, and just before."""
    known = targets >= 0
    scores, targets = scores[known].astype(np.float32), targets[known] == 1
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, np.ones(min(1, len(order)), bool)))  # of equal scores
    return _corners(np.cumsum(targets[order])[last], last + 1)


def pooled_precision_recall(scores: np.ndarray, targets: np.ndarray) -> Curve:
    """The curve of all labels taken together, from (S,N) scores to the precision of float16."""
    present, absent = np.zeros((2, HALVES), np.int64)
    for rows in row_blocks(scores):
        patterns = scores[rows].astype(np.float16).view(np.uint16)
        present += np.bincount(patterns[targets[rows] == 1], minlength=HALVES)
        absent += np.bincount(patterns[targets[rows] == 0], minlength=HALVES)
    there = (present + absent)[::-1] > 0
    return _corners(np.cumsum(present[::-1])[there], np.cumsum((present + absent)[::-1])[there])


def _corners(true: np.ndarray, given: np.ndarray) -> Curve:
    """Precision and recall from how many are found and given at each threshold: where found grows, and just before."""
    grows = np.diff(true, prepend=0) > 0
    kept = grows | np.append(grows[1:], np.ones(min(1, len(grows)), bool))
    return Curve(true[kept] / max(1, true[-1] if len(true) else 0), true[kept] / given[kept])


def count_at(scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray | float) -> DecisionCounts:
    """What is given with scores above `thresholds`, one for all labels or (N,)."""
    return DecisionCounts(*count_decisions(scores, targets, thresholds))


def given_labels(scores: np.ndarray, threshold: float, *, single_label: bool) -> np.ndarray:
    """Which labels (…,N) are given: those with scores (…,N) above `threshold`, of a `single_label` image the best."""
    if single_label:
        return np.arange(scores.shape[-1]) == scores.argmax(axis=-1, keepdims=True)
    return scores > threshold


def image_losses(scores: np.ndarray, targets: np.ndarray, *, softmax: bool = False) -> np.ndarray:
    """(S,) cross entropy of each image, summed over its known labels; `softmax`: of the labels that are present."""
    losses = np.empty(len(scores))
    for rows in row_blocks(scores):
        values = np.clip(scores[rows].astype(np.float64), 1e-7, 1 - 1e-7)
        positive = targets[rows] == 1
        surprise = np.where(positive, -np.log(values), 0.0)
        if not softmax:
            surprise -= np.where(targets[rows] == 0, np.log1p(-values), 0.0)
        losses[rows] = surprise.sum(axis=1)
    return losses


def wrong_pairs(scores: np.ndarray, targets: np.ndarray, threshold: float, *, single_label: bool) -> ErrorPairs:
    """Which label is wrongly given where which is present, those that stand in for missed ones first.

    Given are labels above `threshold`, of a `single_label` image the best one. Of an image with more than
    `MOST_WRONG` wrong ones the most confident count.
    """
    shape = (scores.shape[1],) * 2
    images, missed = sparse.csr_array(shape, dtype=np.int64), sparse.csr_array(shape, dtype=np.int64)
    for rows in row_blocks(scores):
        given = given_labels(scores[rows], threshold, single_label=single_label)
        wrong, present = given & (targets[rows] == 0), targets[rows] == 1
        if (wrong.sum(axis=1) > MOST_WRONG).any():
            wrong_scores = np.where(wrong, scores[rows], -1).astype(np.float32)
            wrong &= wrong_scores >= np.partition(wrong_scores, -MOST_WRONG, axis=1)[:, [-MOST_WRONG]]
        wrong_NS = sparse.csr_array(wrong.T.astype(np.int64))
        images = images + wrong_NS @ sparse.csr_array(present.astype(np.int64))
        missed = missed + wrong_NS @ sparse.csr_array((present & ~given).astype(np.int64))
    keys, counts = _entries(images)
    missed_counts = np.zeros_like(counts)
    missed_keys, some = _entries(missed)
    missed_counts[np.searchsorted(keys, missed_keys)] = some  # where one is missed it is present
    given_of, present_of = np.divmod(keys, scores.shape[1])
    order = np.lexsort((keys, -counts, -missed_counts))
    return ErrorPairs(given_of[order], present_of[order], counts[order], missed_counts[order])


def _entries(matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Places of a matrix that are not 0, row by row, and what stands there."""
    whole = matrix.tocoo()
    rows, columns = whole.coords
    keys = rows.astype(np.int64) * matrix.shape[1] + columns
    order = np.argsort(keys)
    return keys[order], whole.data[order]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
