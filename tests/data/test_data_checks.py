"""Property: what would be wrong in silence is said before a run begins, and what is right gives no word."""

from __future__ import annotations

import pytest

from mldec.data.data_checks import find_data_problems, find_shared
from mldec.data.index import ImageIndex
from mldec.errors import DataError
from mldec.labels import LabelSpace

LABELS = LabelSpace(["cat", "dog", "horse"])


def index(samples: dict[str, list[int]], root: str = "/images", labels: LabelSpace = LABELS) -> ImageIndex:
    return ImageIndex.build(((name, columns, [], []) for name, columns in samples.items()), root=root, labels=labels)


def test_nothing_is_said_of_what_is_right():
    train = index({"a.jpg": [0, 1], "b.jpg": [2]})
    others = {"val": index({"c.jpg": [0]}), "test": index({"a.jpg": [0]}, root="/others")}
    assert find_data_problems(train) == find_shared({"train": train, **others}) == []


def test_labels_without_a_image_are_named():
    assert find_data_problems(index({"a.jpg": [1]})) == ["2 of 3 labels have no image in train: cat, horse"]
    unseen = LabelSpace(["cat", "dog", "horse"], seen=[True, True, False])
    assert find_data_problems(index({"a.jpg": [0, 1]}, labels=unseen)) == []


def test_images_of_train_in_other_splits_are_counted():
    train = index({"a.jpg": [0, 1], "b.jpg": [2]})
    val, test = index({"b.jpg": [0], "c.jpg": []}), index({"d.jpg": [0]})
    so = "so metrics are optimistically biased; leave each in one"
    assert find_shared({"train": train, "val": val, "test": test}) == [
        f"1 image is in several splits (train and val: b.jpg), {so}"
    ]
    assert find_shared({"val": val, "test": index({"c.jpg": [0], "b.jpg": [0]})}) == [
        f"2 images are in several splits (val and test: b.jpg, c.jpg), {so}"
    ]
    assert find_shared({"train": train}) == find_shared({}) == []


def test_no_label_at_all_is_an_error():
    with pytest.raises(DataError, match=r"no image of train has a label, of 2 images and 3 labels"):
        find_data_problems(index({"a.jpg": [], "b.jpg": []}))
