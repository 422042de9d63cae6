"""Top-k accuracy against scikit-learn, and its ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from mldec.metrics import top_k_accuracy
from mldec.metrics.topk import top_k


def data(samples=50, classes=8):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=samples)
    return (
        rng.random((samples, classes)) + 0.4 * np.eye(classes)[labels],
        np.eye(classes, dtype=np.int8)[labels],
        labels,
    )


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_scikit_learn(k):
    scores, targets, labels = data()
    expected = 100 * top_k_accuracy_score(labels, scores, k=k, labels=range(8))
    assert top_k_accuracy(scores, targets, k) == pytest.approx(expected)
    assert top_k_accuracy(torch.from_numpy(scores).float(), torch.from_numpy(targets), k) == pytest.approx(expected)


def test_all_classes_always_hold_the_right_one():
    scores, targets, _ = data()
    assert top_k_accuracy(scores, targets, 8) == 100


@pytest.mark.parametrize("levels", [1, 2, 3, 1000])
def test_exactly_k_are_chosen_and_ties_go_to_the_lower_class(levels):
    scores = np.random.default_rng(0).integers(levels, size=(40, 9)).astype(np.float32)
    for k in range(1, 10):
        expected = np.zeros(scores.shape, bool)
        np.put_along_axis(expected, np.argsort(-scores, axis=1, kind="stable")[:, :k], True, axis=1)
        np.testing.assert_array_equal(top_k(scores, k), expected)


def test_samples_without_a_positive_are_left_out():
    scores, targets, _ = data()
    expected = top_k_accuracy(scores[5:], targets[5:], 2)
    targets[:3], targets[3:5] = 0, -1
    assert top_k_accuracy(scores, targets, 2) == expected
    assert np.isnan(top_k_accuracy(scores, np.zeros_like(targets)))


def test_bad_input_is_refused_in_words():
    scores, targets, _ = data()
    with pytest.raises(ValueError, match="k=9: must be 1 to 8"):
        top_k_accuracy(scores, targets, 9)
    scores[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        top_k_accuracy(scores, targets)
