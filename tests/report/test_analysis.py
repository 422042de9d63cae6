"""Properties: curves, counts and thresholds are those of scikit-learn and of brute force; unknown targets count not."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_curve

from mldec.metrics import average_precision
from mldec.report import analysis
from mldec.report.analysis import (
    count_at,
    image_losses,
    pooled_precision_recall,
    precision_recall,
    wrong_pairs,
)


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, targets of all three states."""
    rng = np.random.default_rng(3)
    scores = rng.random((60, 7)).round(1).astype(np.float32)
    return scores, rng.choice([1, 0, -1], (60, 7), p=[0.3, 0.6, 0.1]).astype(np.int8)


def test_the_curve_is_scikit_learn_s_and_its_area_the_average_precision(drawn):
    for scores, targets in zip(drawn[0].T, drawn[1].T, strict=True):
        curve = precision_recall(scores, targets)
        known = targets >= 0
        precision, recall, _ = precision_recall_curve(targets[known], scores[known])
        assert {(round(r, 9), round(p, 9)) for r, p in zip(curve.recall, curve.precision, strict=True)} <= {
            (round(r, 9), round(p, 9)) for r, p in zip(recall, precision, strict=True)
        }
        steps = np.diff(curve.recall, prepend=0)
        expected = average_precision(scores[:, None], targets[:, None])[0]
        assert (steps * curve.precision).sum() == pytest.approx(expected)


def test_a_label_without_images_has_a_curve_of_nothing():
    curve = precision_recall(np.array([0.2, 0.9], np.float32), np.array([0, -1], np.int8))
    assert curve.recall.tolist() == [0.0]
    assert len(precision_recall(np.array([0.2], np.float32), np.array([-1], np.int8)).recall) == 0


def test_the_pooled_curve_is_that_of_all_entries_as_one_label(drawn):
    scores, targets = drawn[0].astype(np.float16), drawn[1]
    pooled, flat = pooled_precision_recall(scores, targets), precision_recall(scores.ravel(), targets.ravel())
    np.testing.assert_allclose(pooled.recall, flat.recall)
    np.testing.assert_allclose(pooled.precision, flat.precision)


def test_counts_give_scikit_learn_s_f1(drawn):
    scores, targets = drawn
    thresholds = np.linspace(0.2, 0.8, 7)
    found = count_at(scores, targets, thresholds)
    for column, threshold in enumerate(thresholds):
        known = targets[:, column] >= 0
        expected = f1_score(targets[known, column], scores[known, column] > threshold, zero_division=0)
        assert found.f1[column] == pytest.approx(expected)


def test_the_loss_of_a_image_is_its_cross_entropy(drawn):
    scores, targets = drawn
    values = np.clip(scores.astype(float), 1e-7, 1 - 1e-7)
    terms = np.select([targets == 1, targets == 0], [-np.log(values), -np.log(1 - values)], 0.0)
    np.testing.assert_allclose(image_losses(scores, targets), terms.sum(axis=1))
    np.testing.assert_allclose(
        image_losses(scores, targets, softmax=True), np.where(targets == 1, -np.log(values), 0).sum(axis=1)
    )


@pytest.mark.parametrize("single_label", [False, True])
def test_pairs_are_those_that_counting_image_by_image_finds(drawn, single_label, monkeypatch):
    monkeypatch.setattr("mldec.metrics.inputs.BLOCK_ENTRIES", 100)  # many blocks
    scores, targets = drawn
    expected: dict[tuple[int, int], list[int]] = {}
    for row, states in zip(scores, targets, strict=True):
        given = np.arange(7) == row.argmax() if single_label else row > 0.5
        for i in np.flatnonzero(given & (states == 0)):
            for j in np.flatnonzero(states == 1):
                counts = expected.setdefault((i, j), [0, 0])
                counts[0] += 1
                counts[1] += not given[j]
    pairs = wrong_pairs(scores, targets, 0.5, single_label=single_label)
    assert {(g, p): [images, missed] for g, p, images, missed in zip(*pairs, strict=True)} == expected
    ranks = list(zip(-pairs.missed, -pairs.images, strict=True))
    assert ranks == sorted(ranks)


def test_of_very_many_wrong_labels_the_most_confident_count(monkeypatch):
    monkeypatch.setattr(analysis, "MOST_WRONG", 2)
    scores = np.array([[0.9, 0.6, 0.8, 0.7, 0.95]], np.float32)
    targets = np.array([[1, 0, 0, 0, 0]], np.int8)
    assert set(wrong_pairs(scores, targets, 0.5, single_label=False).given) == {2, 4}
