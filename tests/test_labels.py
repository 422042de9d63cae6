"""Property: a label space is an ordered set of names."""

from __future__ import annotations

import pickle

import pytest

from mldec.errors import DataError
from mldec.labels import LabelSpace


def test_index_is_the_inverse_of_names():
    space = LabelSpace(["cat", "dog", "zebra"])
    assert [space.index(name) for name in space.names] == [0, 1, 2]
    assert len(space) == 3


def test_equality_and_pickling_go_by_value():
    space = LabelSpace(["cat", "dog"], seen=[True, False])
    assert space == LabelSpace(("cat", "dog"), (1, 0)) == pickle.loads(pickle.dumps(space))
    assert space != LabelSpace(["dog", "cat"])


@pytest.mark.parametrize(
    ("names", "seen", "message"),
    [
        ([], None, "at least one"),
        (["cat", " "], None, "empty"),
        (["cat", "dog", "cat"], None, "more than once: cat"),
        (["cat", "dog"], [True], "1 entries for 2 labels"),
    ],
)
def test_what_is_no_label_space_is_refused(names, seen, message):
    with pytest.raises(DataError, match=message):
        LabelSpace(names, seen)


def test_an_unknown_label_gets_the_nearest_names():
    with pytest.raises(DataError, match="did you mean zebra"):
        LabelSpace(["cat", "zebra"]).index("zebr")


def test_the_trained_labels_are_the_seen_ones_in_order():
    labels = LabelSpace(["a", "b", "c"], seen=[True, False, True])
    assert labels.has_unseen
    assert labels.trained() == LabelSpace(["a", "c"])
    assert not labels.trained().has_unseen
    for everything in (LabelSpace(["a", "b"]), LabelSpace(["a", "b"], seen=[True, True])):
        assert not everything.has_unseen
        assert everything.trained().names == ("a", "b")
