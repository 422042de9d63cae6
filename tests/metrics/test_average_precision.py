"""Average precision against scikit-learn, written-out oracles and the numbers of the paper's notes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mldec.metrics import average_precision, inputs, mean_average_precision

DEFINITIONS = ["exact", "exact_zero", "voc07", "partial", "paper"]


def data(samples=200, classes=12, seed=0, levels=None, unknown=0.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    scores = rng.random((samples, classes))
    if levels:
        scores = np.round(scores * levels) / levels
    targets = (rng.random((samples, classes)) < rng.uniform(0.02, 0.9, classes)).astype(np.int8)
    targets[rng.random(targets.shape) < unknown] = -1
    targets[:2] = [[1], [0]]
    return scores.astype(dtype), targets


def published(scores, targets):
    """The published AP of one class without ties (paper §2.3)."""
    hits = (targets == 1)[np.argsort(-scores)]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return (precision * hits).sum() / (hits.sum() + 1e-8)


def voc_oracle(scores, targets):
    """VOC2007's 11 points, walking over every threshold."""
    scores, targets = scores[targets >= 0], targets[targets >= 0]
    curve = [((targets[scores >= t] == 1).sum(), (scores >= t).sum()) for t in np.unique(scores)]
    total = (targets == 1).sum()
    return np.mean([max((h / n for h, n in curve if 10 * h >= k * total), default=0) for k in range(11)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("levels", [None, 1, 7, 100])
def test_exact_equals_scikit_learn(dtype, levels):
    scores, targets = data(levels=levels, dtype=dtype)
    expected = [average_precision_score(targets[:, i], scores[:, i]) for i in range(targets.shape[1])]
    found = average_precision(scores, targets)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert mean_average_precision(scores, targets) == pytest.approx(100 * np.mean(expected), abs=1e-10)


def test_exact_skips_unknown_labels():
    scores, targets = data(unknown=0.3, levels=20)
    known = targets >= 0
    expected = [
        average_precision_score(targets[known[:, i], i], scores[known[:, i], i]) for i in range(targets.shape[1])
    ]
    np.testing.assert_allclose(average_precision(scores, targets), expected, rtol=0, atol=1e-12)


def test_partial_equals_exact_but_for_classes_without_negatives():
    scores, targets = data(unknown=0.3)
    targets[targets[:, 0] == 0, 0] = -1
    partial = average_precision(scores, targets, "partial")
    assert np.isnan(partial[0])
    np.testing.assert_array_equal(partial[1:], average_precision(scores, targets)[1:])
    assert average_precision(scores, targets)[0] == 1


def test_paper_equals_the_published_code_where_nothing_is_tied():
    scores, targets = data(unknown=0.2)
    expected = [published(scores[:, i], targets[:, i]) for i in range(targets.shape[1])]
    np.testing.assert_allclose(average_precision(scores, targets, "paper"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [None, 9])
def test_voc07_equals_the_walk_over_thresholds(levels):
    scores, targets = data(samples=60, unknown=0.2, levels=levels)
    expected = [voc_oracle(scores[:, i], targets[:, i]) for i in range(targets.shape[1])]
    np.testing.assert_allclose(average_precision(scores, targets, "voc07"), expected, rtol=0, atol=1e-12)


def test_voc07_by_hand():
    # Ranks: hit, miss, hit. Recall up to 0.5 at precision 1 (6 points), the rest at 2/3.
    scores, targets = np.array([[0.9], [0.8], [0.7]]), np.array([[1], [0], [1]])
    assert average_precision(scores, targets, "voc07")[0] == pytest.approx((6 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_order_of_the_samples_never_matters(definition):
    for order in itertools.permutations(range(6)):
        scores = np.full((6, 1), 0.5)
        targets = np.array([[1], [1], [1], [0], [0], [0]])[list(order)]
        assert average_precision(scores, targets, definition)[0] == pytest.approx(0.5, abs=1e-8)
    scores, targets = data(levels=5, unknown=0.1)
    expected = average_precision(scores, targets, definition)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(scores))
        np.testing.assert_array_equal(average_precision(scores[order], targets[order], definition), expected)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_only_the_ranks_matter(definition):
    scores, targets = data(levels=50)
    np.testing.assert_array_equal(
        average_precision(np.exp(5 * scores) - 7, targets, definition), average_precision(scores, targets, definition)
    )


def test_classes_without_positives():
    scores, targets = data(classes=4)
    targets[targets[:, 2] == 1, 2] = 0
    for definition in ("exact", "voc07", "partial"):
        found = average_precision(scores, targets, definition)
        assert np.isnan(found).tolist() == [False, False, True, False]
        assert mean_average_precision(scores, targets, definition) == pytest.approx(100 * np.nanmean(found))
    exact, filled = average_precision(scores, targets), average_precision(scores, targets, "exact_zero")
    np.testing.assert_array_equal(filled, np.nan_to_num(exact))  # LESA and BiAM divide by all classes
    assert mean_average_precision(scores, targets, "exact_zero") == pytest.approx(100 * np.nansum(exact) / 4)
    assert average_precision(scores, targets, "paper")[2] == 0
    kept = np.delete(average_precision(scores, targets, "paper"), 2)
    assert mean_average_precision(scores, targets, "paper") == pytest.approx(100 * kept.sum() / 4)


def test_no_class_to_average_gives_nan():
    assert np.isnan(mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2), np.int8)))
    assert np.isnan(average_precision(np.zeros((0, 2)), np.zeros((0, 2)))).all()
    assert mean_average_precision(np.zeros((0, 2)), np.zeros((0, 2)), "paper") == 0


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_chunks_of_classes_change_nothing(definition, monkeypatch):
    scores, targets = data(unknown=0.1)
    whole = average_precision(scores, targets, definition)
    for entries in (1, 500):
        monkeypatch.setattr(inputs, "CHUNK_ENTRIES", entries)
        np.testing.assert_array_equal(average_precision(scores, targets, definition), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_are_taken_as_well(dtype):
    scores, targets = data()
    scores = torch.from_numpy(scores).to(dtype).requires_grad_()
    found = average_precision(scores, torch.from_numpy(targets))
    np.testing.assert_array_equal(found, average_precision(scores.detach().double().numpy(), targets))


def test_inputs_are_left_alone():
    scores, targets = data(unknown=0.1)
    before = scores.copy(), targets.copy()
    average_precision(scores, targets)
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(targets, before[1])


@pytest.mark.parametrize("dtype", [np.int64, np.float32, bool])
def test_targets_of_any_dtype(dtype):
    scores, targets = data()
    np.testing.assert_array_equal(average_precision(scores, targets.astype(dtype)), average_precision(scores, targets))


def test_bad_input_is_refused_in_words():
    scores, targets = data(samples=5, classes=3)
    with pytest.raises(ValueError, match=r"scores \(5, 3\) and targets \(4, 3\)"):
        average_precision(scores, targets[:4])
    with pytest.raises(ValueError, match=r"one shape \(S,N\)"):
        average_precision(scores[0], targets[0])
    with pytest.raises(ValueError, match="targets hold 2; allowed are 1 present, 0 absent, -1 unknown"):
        average_precision(scores, targets * 2)
    with pytest.raises(ValueError, match=r"targets hold 0\.5"):
        average_precision(scores, targets * 0.5)
    with pytest.raises(ValueError, match="targets hold 256"):
        average_precision(scores, targets.astype(np.int64) * 256)
    with pytest.raises(ValueError, match="no such definition; use exact, exact_zero, voc07"):
        average_precision(scores, targets, "interpolated")
    scores[3, 1] = np.nan
    for definition in DEFINITIONS:
        with pytest.raises(ValueError, match="NaN, first at sample 3, class 1"):
            average_precision(scores, targets, definition)
