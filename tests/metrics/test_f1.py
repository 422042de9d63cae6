"""F1 against scikit-learn and numbers worked out by hand."""

# ruff: noqa: SIM300 (it takes the upper-case fields of F1Scores for constants)

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from mldec.metrics import f1_at_k, f1_at_threshold, inputs, top_k_accuracy


def data(seed=0, samples=80, classes=7):
    rng = np.random.default_rng(seed)
    targets = (rng.random((samples, classes)) < 0.3).astype(np.int8)
    targets[0] = 1
    return np.clip(rng.normal(0.35 + 0.3 * targets, 0.2), 0, 1), targets


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.75])
def test_threshold_equals_scikit_learn(threshold):
    scores, targets = data()
    found = f1_at_threshold(scores, targets, threshold)
    predicted = scores > threshold
    precision, recall, f1, _ = precision_recall_fscore_support(targets, predicted, average="macro", zero_division=0)
    assert (found.CP, found.CR, found.FC) == pytest.approx((100 * precision, 100 * recall, 100 * f1))
    assert found.CF1 == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    micro = precision_recall_fscore_support(targets, predicted, average="micro", zero_division=0)[:3]
    assert (found.OP, found.OR, found.OF1) == pytest.approx([100 * value for value in micro])


def test_by_hand():
    scores = np.array([[0.9, 0.1, 0.8], [0.6, 0.7, 0.2]])
    targets = np.array([[1, 0, 0], [0, 1, 1]])
    found = f1_at_threshold(scores, targets)  # precision 1/2, 1, 0; recall 1, 1, 0; three classes
    assert (found.CP, found.CR) == pytest.approx((50, 200 / 3))
    assert found.CF1 == pytest.approx(2 * 50 * (200 / 3) / (50 + 200 / 3))
    assert found.FC == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert (found.OP, found.OR, found.OF1) == pytest.approx((50, 200 / 3, 400 / 7))


def test_the_threshold_itself_is_not_above_it():
    assert f1_at_threshold(np.array([[0.5]]), np.array([[1]])).OF1 == 0
    assert f1_at_threshold(np.array([[0.5]]), np.array([[1]]), threshold=0.49).OF1 == 100


def test_nothing_predicted_is_zero_and_not_nan():
    found = f1_at_threshold(np.zeros((3, 2)), np.eye(3, 2, dtype=np.int8))
    assert set(vars(found).values()) == {0}
    assert set(vars(f1_at_threshold(np.zeros((0, 2)), np.zeros((0, 2)))).values()) == {0}


def test_classes_without_positives_are_left_out_of_the_class_means_only():
    scores, targets = data()
    targets[:, 2] = 0
    found, without = (
        f1_at_threshold(scores, targets),
        f1_at_threshold(np.delete(scores, 2, 1), np.delete(targets, 2, 1)),
    )
    assert (found.CP, found.CR, found.CF1) == pytest.approx((without.CP, without.CR, without.CF1))
    assert found.OP < without.OP
    assert found.FC == pytest.approx(without.FC * 6 / 7)


def test_unknown_labels_count_neither_for_nor_against():
    scores, targets = data()
    targets[np.random.default_rng(1).random(targets.shape) < 0.3] = -1
    found = f1_at_threshold(scores, targets)
    unpredicted = np.where(targets < 0, 0, scores)
    assert found == f1_at_threshold(unpredicted, targets.clip(min=0))


def test_at_k_predicts_exactly_k_labels():
    scores, targets = data()
    kept = targets.any(axis=1)
    for k in (1, 3, 7):
        predicted = np.argsort(np.argsort(-scores, axis=1), axis=1) < k
        expected = f1_at_threshold(predicted[kept].astype(float), targets[kept])
        assert f1_at_k(scores, targets, k) == expected


def test_at_k_skips_samples_without_a_positive_unless_told_otherwise():
    scores, targets = data()
    targets[5:20] = 0
    targets[20:25] = -1
    kept = (targets == 1).any(axis=1)
    assert f1_at_k(scores, targets, 3) == f1_at_k(scores[kept], targets[kept], 3)
    assert f1_at_k(scores, targets, 3, skip_empty=False).OP < f1_at_k(scores, targets, 3).OP


def test_at_k_ties_do_not_depend_on_the_order_of_the_samples():
    scores, targets = data()
    scores = np.round(scores, 1)
    order = np.random.default_rng(0).permutation(len(scores))
    assert f1_at_k(scores, targets, 3) == f1_at_k(scores[order], targets[order], 3)


def test_at_k_leaves_unknown_labels_in_their_place():
    scores = np.array([[0.9, 0.8, 0.7]])
    found = f1_at_k(scores, np.array([[-1, 1, 1]]), k=2)  # predicted: the unknown and one of two positives
    assert (found.OP, found.OR) == (100, 50)


def test_counting_in_blocks_changes_nothing(monkeypatch):
    scores, targets = data()
    targets[::3, ::2] = -1

    def figures():
        return (
            f1_at_threshold(scores, targets),
            f1_at_k(scores, targets, 3),
            f1_at_k(scores, targets, 3, skip_empty=False),
            top_k_accuracy(scores, targets, 2),
        )

    whole = figures()
    monkeypatch.setattr(inputs, "BLOCK_ENTRIES", 23)  # three rows and a bit
    assert figures() == whole


def test_tensors_are_taken_as_well():
    scores, targets = data()
    assert f1_at_k(torch.from_numpy(scores), torch.from_numpy(targets), 3) == f1_at_k(scores, targets, 3)


def test_bad_k_is_refused_in_words():
    scores, targets = data()
    for k in (0, 8):
        with pytest.raises(ValueError, match=f"k={k}: must be 1 to 7, the number of classes"):
            f1_at_k(scores, targets, k)
