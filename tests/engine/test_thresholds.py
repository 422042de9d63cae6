"""Properties: the tuned threshold is the best of all there are, and its file gives back what was written."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mldec.engine.thresholds import LabelThresholds, read_thresholds, tune_thresholds, write_thresholds
from mldec.errors import DataError
from mldec.labels import LabelSpace, from_cell, to_cell
from mldec.metrics import f1_at_threshold, f1_per_class, inputs


def f1_of(scores, targets, threshold):
    """F1 of flat scores and targets, counted one by one."""
    true = guessed = actual = 0
    for score, target in zip(scores.tolist(), targets.tolist(), strict=True):
        if target >= 0:
            true += score > threshold and target == 1
            guessed += score > threshold
            actual += target == 1
    return 2 * true / (guessed + actual) if guessed + actual else 0.0


def best_by_hand(scores, targets):
    """Every place to cut, from the highest down: (F1, threshold) of the first best one; None if none finds anything."""
    levels = sorted({0.0, *scores[targets >= 0].tolist()}, reverse=True)
    best = (0.0, None)
    for high, low in itertools.pairwise(levels):
        middle = (high + low) / 2
        best = max(best, (f1_of(scores, targets, middle), middle), key=lambda found: found[0])
    return None if best[1] is None else best


@st.composite
def answers(draw):
    shape = (draw(st.integers(1, 25)), draw(st.integers(1, 5)))
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16]))
    levels = draw(st.sampled_from([2, 7, 1000]))  # few levels make ties, and scores of 0
    numbers = draw(arrays.arrays(np.int64, shape, elements=st.integers(0, levels)))
    targets = draw(arrays.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 0, 1])))
    return (numbers / levels).astype(dtype), targets


@settings(max_examples=200, deadline=None)
@given(answers(), st.sampled_from([1, 7, 2**22]))
def test_tuned_thresholds_are_those_of_a_plain_loop_over_every_cut(data, block):
    scores, targets = data
    overall = best_by_hand(scores.ravel(), targets.ravel())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "BLOCK_ENTRIES", block)
        patch.setattr(inputs, "CHUNK_ENTRIES", block)
        values = tune_thresholds(scores, targets, default=0.625)
    for column, value in enumerate(values):
        best = best_by_hand(scores[:, column], targets[:, column])
        if best is not None:
            assert value == best[1]
            assert f1_of(scores[:, column], targets[:, column], value) == best[0]
        else:  # without a positive, or without one above 0
            assert value == (0.625 if overall is None else overall[1])


def test_of_equal_f1_the_highest_threshold_wins():
    """Letting in the first alone, or all four: two thirds either way."""
    scores, targets = np.array([[0.9], [0.8], [0.7], [0.6]]), np.array([[1], [0], [0], [1]])
    assert f1_of(scores[:, 0], targets[:, 0], 0.85) == f1_of(scores[:, 0], targets[:, 0], 0.3)
    assert tune_thresholds(scores, targets).tolist() == [pytest.approx(0.85)]


def test_neighbouring_scores_are_told_apart_in_every_precision():
    for dtype in (np.float16, np.float32, np.float64):
        low = np.array(0.3, dtype)
        high = np.nextafter(low, dtype(1))
        scores, targets = np.array([[low], [high]]), np.array([[0], [1]])
        (value,) = tune_thresholds(scores, targets)
        assert ((scores > np.array([value])) == (targets == 1)).all()
        assert f1_per_class(scores, targets, np.array([value])).tolist() == [100]


def test_no_single_threshold_is_better_for_a_label_than_its_own():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((300, 8)).astype(np.float32), (rng.random((300, 8)) < 0.2).astype(np.int8)
    scores += 0.3 * targets
    scores /= scores.max()
    tuned = f1_per_class(scores, targets, tune_thresholds(scores, targets))
    for threshold in np.linspace(0, 1, 101):
        assert (tuned >= f1_per_class(scores, targets, threshold)).all()
    assert f1_per_class(scores, targets, 0.5).mean() == pytest.approx(f1_at_threshold(scores, targets, 0.5).FC)


def test_the_file_gives_back_what_was_written(tmp_path):
    labels = LabelSpace(["cat", "=1+1", "a, b", "'=quoted", "Bär", "'plain", "-9"])
    rng = np.random.default_rng(1)
    scores, targets = rng.random((40, 7)).astype(np.float32), rng.integers(-1, 2, (40, 7)).astype(np.int8)
    targets[:, 3] = 0
    thresholds = LabelThresholds(labels, tune_thresholds(scores, targets))
    write_thresholds(tmp_path / "run" / "thresholds.csv", thresholds, scores, targets)
    for order in (labels, LabelSpace(labels.names[::-1])):
        back = read_thresholds(tmp_path / "run" / "thresholds.csv", order)
        assert dict(zip(order.names, back.values, strict=True)) == dict(
            zip(labels.names, thresholds.values, strict=True)
        )
        assert back.untuned == ()
    with (tmp_path / "run" / "thresholds.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["positives"]) for row in rows] == (targets == 1).sum(axis=0).tolist()
    assert not any(row["label"].startswith(("=", "-", "+", "@")) for row in rows)  # no formula for a spreadsheet
    assert rows[3]["f1"] == ""
    assert float(rows[0]["f1"]) == pytest.approx(100 * f1_of(scores[:, 0], targets[:, 0], back.values[-1]), abs=1e-4)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thresholds.csv"]


@given(st.text(alphabet="'=+-@\tab", max_size=6))
def test_cells_are_no_formulas_and_give_their_text_back(text):
    assert from_cell(to_cell(text)) == text
    assert not to_cell(text).startswith(("=", "+", "-", "@", "\t"))


def test_labels_that_a_file_lacks_get_the_default_and_are_named(tmp_path):
    file = tmp_path / "thresholds.csv"
    scores = np.zeros((2, 2), np.float32)
    write_thresholds(file, LabelThresholds(LabelSpace(["cat", "dog"]), np.array([0.25, 0.75])), scores, scores)
    found = read_thresholds(file, LabelSpace(["zebra", "dog"]), default=0.4)
    assert found.values.tolist() == [0.4, 0.75]
    assert found.untuned == ("zebra",)
    with pytest.raises(DataError, match=r"no threshold for any of the 1 labels \(first: dot\); did you mean dog"):
        read_thresholds(file, LabelSpace(["dot"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the columns label,threshold; found none"),
        ("name,threshold\ncat,0.5\n", "found .*name"),
        ("label,threshold\n", "needs at least one label"),
        ("label,threshold\ncat,0.5\ncat,0.5\n", "found more than once: cat"),
        ("label,threshold\ncat,1.5\n", "line 2: threshold '1.5': expected a number from 0 to 1"),
        ("label,threshold\ncat\n", "line 2: threshold None"),
        ("label,threshold\ncat,nan\n", "expected a number"),
        ("label,threshold\n,0.5\n", "found an empty one"),
    ],
)
def test_a_broken_file_is_one_clear_error_that_names_it(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_thresholds(tmp_path / "t.csv", LabelSpace(["cat"]))
    assert str(tmp_path / "t.csv") in str(caught.value)
    with pytest.raises(DataError, match="No such file"):
        read_thresholds(tmp_path / "absent.csv")
