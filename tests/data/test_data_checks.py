"""Property: what would be wrong in silence is said before a run begins, and what is right gives no word."""

from __future__ import annotations

import pytest

from mldec.data.data_checks import find_data_problems
from mldec.data.index import ImageIndex
from mldec.errors import DataError
from mldec.labels import LabelSpace

LABELS = LabelSpace(["cat", "dog", "horse"])


def index(samples: dict[str, list[int]], root: str = "/images", labels: LabelSpace = LABELS) -> ImageIndex:
    return ImageIndex.build(((name, columns, [], []) for name, columns in samples.items()), root=root, labels=labels)


def test_nothing_is_said_of_what_is_right():
    train = index({"a.jpg": [0, 1], "b.jpg": [2]})
    assert (
        find_data_problems(train, {"val": index({"c.jpg": [0]}), "test": index({"a.jpg": [0]}, root="/others")}) == []
    )


def test_labels_without_a_image_are_named():
    assert find_data_problems(index({"a.jpg": [1]}), {}) == ["2 of 3 labels have no image in train: cat, horse"]
    unseen = LabelSpace(["cat", "dog", "horse"], seen=[True, True, False])
    assert find_data_problems(index({"a.jpg": [0, 1]}, labels=unseen), {}) == []


def test_images_of_train_in_other_splits_are_counted():
    train = index({"a.jpg": [0, 1], "b.jpg": [2]})
    assert find_data_problems(train, {"val": index({"b.jpg": [0], "c.jpg": []}), "test": index({"d.jpg": [0]})}) == [
        "1 of 2 images of val are in train too, so its metrics are optimistically biased: b.jpg"
    ]


def test_no_label_at_all_is_an_error():
    with pytest.raises(DataError, match=r"no image of train has a label, of 2 images and 3 labels"):
        find_data_problems(index({"a.jpg": [], "b.jpg": []}), {})
