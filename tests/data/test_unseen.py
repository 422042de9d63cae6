"""Properties of dataset.unseen: train knows nothing of the named labels, the other splits all; mistakes are named."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mldec.config import build_component
from mldec.data.dataset import warn_of_differences
from mldec.data.digits import DigitsConfig, build_digits, unseen_classes
from mldec.data.folder import FolderConfig, build_folder
from mldec.data.index import UNKNOWN, ImageIndex
from mldec.data.table import TableConfig, build_table
from mldec.engine import data_splits
from mldec.errors import ConfigError, DataError
from mldec.labels import LabelSpace
from mldec.registry import DATASETS
from tests.curve import SCENES, make
from tests.tables import touch

IMAGES = [f"{name}.jpg" for name in "abcdefg"]
CELLS = {
    "train": "path,labels\na.jpg,cat;dog\nb.jpg,bird\nc.jpg,\n",
    "val": "path,labels\nd.jpg,cat;zebra\n",
    "test": "path,labels\ne.jpg,yak;bird\nf.jpg,zebra\ng.jpg,dog\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path, *IMAGES)
    return tmp_path


def table(folder: Path, contents: dict[str, str], unseen: str, **settings) -> TableConfig:
    """A config of tables that are written first, and of a file with the names `unseen`, one per line."""
    for split, content in contents.items():
        (folder / f"{split}.csv").write_text(content)
    (folder / "unseen.txt").write_text(unseen)
    files = {split: str(folder / f"{split}.csv") for split in contents}
    return TableConfig(**{"name": "table", "unseen": str(folder / "unseen.txt")} | files | settings)


def splits(config: TableConfig) -> dict[str, ImageIndex]:
    return {split: build_table(config, split=split) for split in config.splits}


def rows(index: ImageIndex) -> dict[str, list[int]]:
    return dict(zip(index.names(), index.targets(range(len(index))).tolist(), strict=True))


def test_labels_that_only_val_or_test_have_are_unseen_where_the_file_names_them(folder: Path) -> None:
    found = splits(table(folder, CELLS, "# never trained\nzebra\n\nyak \n"))
    for index in found.values():
        assert index.labels.names == ("bird", "cat", "dog", "yak", "zebra")
        assert index.labels.seen == (True, True, True, False, False)
    assert rows(found["train"]) == {"a.jpg": [0, 1, 1, -1, -1], "b.jpg": [1, 0, 0, -1, -1], "c.jpg": [0, 0, 0, -1, -1]}
    assert rows(found["val"]) == {"d.jpg": [0, 1, 0, 0, 1]}
    assert rows(found["test"]) == {"e.jpg": [1, 0, 0, 1, 0], "f.jpg": [0, 0, 0, 0, 1], "g.jpg": [0, 0, 1, 0, 0]}


def test_other_labels_that_train_lacks_stay_an_error_or_are_left_out(folder: Path) -> None:
    config = table(folder, CELLS, "zebra\n")
    with pytest.raises(DataError, match=r"test.csv line 2: no label 'yak'.*dataset.labels=train to leave out"):
        build_table(config, split="train")
    found = splits(dataclasses.replace(config, labels="train"))
    assert {index.labels.names for index in found.values()} == {("bird", "cat", "dog", "zebra")}
    (folder / "names.json").write_text('["zebra", "yak", "dog", "cat", "bird"]')
    named = build_table(dataclasses.replace(config, labels=str(folder / "names.json")), split="train")
    assert named.labels == LabelSpace(["zebra", "yak", "dog", "cat", "bird"], seen=[False, True, True, True, True])


def test_images_whose_only_labels_are_unseen_leave_train_and_those_without_labels_stay(folder, caplog) -> None:
    caplog.set_level("INFO")
    config = table(folder, {"train": CELLS["train"], "test": CELLS["train"]}, "bird\n")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        found = splits(config)
        assert rows(found["train"]) == {"a.jpg": [-1, 1, 1], "c.jpg": [-1, 0, 0]}
        assert "unseen.txt: 1 of 3 train images have unseen labels alone; they are left out" in caplog.text
    assert rows(found["test"]) == {"a.jpg": [0, 1, 1], "b.jpg": [1, 0, 0], "c.jpg": [0, 0, 0]}
    dropped = splits(dataclasses.replace(config, unannotated="drop"))
    assert list(dropped["train"].names()) == ["a.jpg"]
    assert list(dropped["test"].names()) == ["a.jpg", "b.jpg"]


def test_a_column_for_each_class_may_lack_those_that_are_unseen(folder: Path) -> None:
    contents = {
        "train": "path,cat,dog\na.jpg,1,0\nb.jpg,0,1\n",
        "val": "path,cat,dog\nc.jpg,1,1\n",
        "test": "path,zebra,cat,dog,yak\nd.jpg,1,0,0,0\ne.jpg,0,1,0,1\n",
    }
    found = splits(table(folder, contents, "yak\nzebra\n"))
    assert {index.labels for index in found.values()} == {
        LabelSpace(["cat", "dog", "yak", "zebra"], seen=[True, True, False, False])
    }
    assert rows(found["train"]) == {"a.jpg": [1, 0, -1, -1], "b.jpg": [0, 1, -1, -1]}
    assert rows(found["val"]) == {"c.jpg": [1, 1, -1, -1]}
    assert rows(found["test"]) == {"d.jpg": [0, 0, 0, 1], "e.jpg": [1, 0, 1, 0]}
    with pytest.raises(DataError, match=r"column zebra is none of the 3 classes"):
        build_table(table(folder, contents, "yak\n"), split="test")


def test_one_file_with_a_column_of_splits_or_shares(folder: Path) -> None:
    lines = ["a.jpg,cat,train", "b.jpg,dog;zebra,train", "c.jpg,zebra,train", "d.jpg,zebra;yak,test"]
    found = splits(table(folder, {"train": "\n".join(["path,labels,split", *lines])}, "zebra\nyak\n"))
    assert found["train"].labels == LabelSpace(["cat", "dog", "yak", "zebra"], seen=[True, True, False, False])
    assert rows(found["train"]) == {"a.jpg": [1, 0, -1, -1], "b.jpg": [0, 1, -1, -1]}
    assert rows(found["test"]) == {"d.jpg": [0, 0, 1, 1]}
    names = ["cat", "dog", "cat;zebra", "dog;zebra", "cat", "dog", "zebra"]
    content = "path,labels\n" + "".join(f"{image},{name}\n" for image, name in zip(IMAGES, names, strict=True))
    shared = splits(table(folder, {"train": content}, "zebra\n", val_share=0.25, test_share=0.25))
    assert all(index.labels.has_unseen for index in shared.values())
    assert (shared["train"].targets(range(len(shared["train"])))[:, 2] == -1).all()
    assert (shared["test"].targets(range(len(shared["test"])))[:, 2] >= 0).all()


def test_mistakes_are_one_error_each(folder: Path) -> None:
    config = table(folder, CELLS, "")
    for names, said in {
        "zebra\nzebre\nyak\n": r"unseen.txt: 1 name that no label of table has \(zebre\); .*did you mean zebra",
        "bird\ncat\ndog\nzebra\nyak\n": r"unseen.txt: names all 5 labels, so none is left to train on",
        "": r"unseen.txt: a label space needs at least one label, found none",
        "yak\nyak\n": r"unseen.txt: label names must differ; found more than once: yak",
    }.items():
        with pytest.raises(DataError, match=said):
            build_table(table(folder, CELLS, names), split="train")
    with pytest.raises(DataError, match=r"dataset.unseen=.*nothing.txt: no such file. Found in .*: a.jpg, b.jpg"):
        build_table(dataclasses.replace(config, unseen=str(folder / "nothing.txt")), split="train")
    one = "path,labels\na.jpg,zebra\nb.jpg,yak\n"
    with pytest.raises(DataError, match=r"2 of 2 train images have unseen labels alone, so none is left to train on"):
        build_table(table(folder, CELLS | {"train": one}, "zebra\nyak\n", labels="union"), split="train")


def test_another_list_in_the_same_file_is_another_index(folder: Path) -> None:
    config = table(folder, CELLS, "zebra\nyak\n")
    assert build_table(config, split="test").labels.seen == (True, True, True, False, False)
    (folder / "unseen.txt").write_text("zebra\nyak\ncat\n")
    assert build_table(config, split="test").labels.seen == (True, False, True, False, False)
    assert build_table(dataclasses.replace(config, unseen=None, labels="union"), split="test").labels.seen is None


def test_class_folders(folder: Path) -> None:
    touch(folder / "root", *(f"{split}/{name}/{split}.jpg" for split in ("train", "test") for name in ("cat", "dog")))
    touch(folder / "root", "test/zebra/0.jpg")
    (folder / "unseen.txt").write_text("zebra\ndog\n")
    config = FolderConfig(name="folder", root=str(folder / "root"), unseen=str(folder / "unseen.txt"), labels="union")
    train, test = (build_folder(config, split=split) for split in ("train", "test"))
    assert train.labels == test.labels == LabelSpace(["cat", "dog", "zebra"], seen=[True, False, False])
    assert rows(train) == {"cat/train.jpg": [1, -1, -1]}
    assert rows(test) == {"cat/test.jpg": [1, 0, 0], "dog/test.jpg": [0, 1, 0], "zebra/0.jpg": [0, 0, 1]}


def test_where_nothing_is_said_of_a_label_it_is_unknown_without_a_list_of_it(tmp_path: Path) -> None:
    samples = [("a.jpg", [0], [1], [2]), ("b.jpg", [1], [0], [])]
    labels = LabelSpace(["a", "b", "c"])
    index = ImageIndex.build(samples, root=str(tmp_path), labels=labels, default=UNKNOWN).with_unknown(["b", "c"])
    assert index.targets([0, 1]).tolist() == [[1, -1, -1], [0, -1, -1]]
    assert not len(index.unknown.values)
    listed = ImageIndex.build(samples, root=str(tmp_path), labels=labels).with_unknown(["b"])
    assert listed.targets([0, 1]).tolist() == [[1, -1, -1], [0, -1, 0]]
    none = ImageIndex.build([("a.jpg", [0], [], [])] * 1, root=str(tmp_path), labels=labels).with_unknown(["c", "a"])
    assert none.targets([0]).tolist() == [[-1, 0, -1]]


def test_the_images_that_are_left_out_are_no_difference_from_what_was_published(folder, caplog) -> None:
    touch(folder / "root", *(f"train/{name}/0.jpg" for name in ("cat", "dog")))
    (folder / "unseen.txt").write_text("dog\n")
    config = build_component({"name": "imagenet", "root": str(folder / "root")}, "dataset")
    hidden = dataclasses.replace(config, unseen=str(folder / "unseen.txt"))
    for one, warns in ((config, True), (hidden, False)):
        caplog.clear()
        warn_of_differences(one, "train", DATASETS["imagenet"].build(one, split="train"))
        assert ("images, as published" in caplog.text) == warns
        assert "2 labels, as published it has 1,000" in caplog.text


def test_it_hides_what_the_digits_hide_themselves(digits_root: Path, tmp_path: Path) -> None:
    (tmp_path / "unseen.txt").write_text("\n".join(unseen_classes(8)[0]))
    plain = DigitsConfig(name="digits", root=str(digits_root), **SCENES)
    named = dataclasses.replace(plain, unseen=str(tmp_path / "unseen.txt"))
    own = dataclasses.replace(plain, zero_shot="report")
    for split in ("train", "test"):
        ours, theirs = build_digits(named, split=split), build_digits(own, split=split)
        assert ours.labels == theirs.labels
        kept = [row for row, name in enumerate(theirs.names()) if name in set(ours.names())]
        np.testing.assert_array_equal(ours.targets(range(len(ours))), theirs.targets(kept))
    with pytest.raises(ConfigError, match=r"zero_shot=report: unseen=.*unseen.txt names other unseen labels; use one"):
        build_component({**dataclasses.asdict(own), "unseen": str(tmp_path / "unseen.txt")}, "dataset")


def test_a_dataset_with_unseen_labels_of_its_own_takes_no_others(folder: Path) -> None:
    root = folder / "nuswide"
    touch(root, "0.jpg", "1.jpg")
    (root / "nus_seen_925.txt").write_text("sky\nsea\n")
    (root / "nus_unseen_81.txt").write_text("zebra\n")
    (root / "data.csv").write_text('a,b,c\n0.jpg,"[sky]",train\n1.jpg,"[zebra]",val\n')
    (folder / "unseen.txt").write_text("sea\n")
    settings = {"name": "nuswide_zsl", "root": str(root), "unseen": str(folder / "unseen.txt")}
    with pytest.raises(DataError, match=r"nuswide_zsl has unseen labels of its own; leave dataset.unseen out"):
        DATASETS["nuswide_zsl"].build(build_component(settings, "dataset"), split="train")


def test_a_dataset_of_a_plugin_that_does_not_mark_them_is_refused(digits_root, tmp_path, monkeypatch) -> None:
    (tmp_path / "unseen.txt").write_text("red one\n")
    options = ["experiment=digits", f"dataset.root={digits_root}", *(f"dataset.{k}={v}" for k, v in SCENES.items())]
    config = make([*options, f"dataset.unseen={tmp_path / 'unseen.txt'}"])
    plain = make(options).dataset
    component = dataclasses.replace(DATASETS["digits"], build=lambda _, split: build_digits(plain, split=split))
    monkeypatch.setitem(DATASETS._components, "digits", component)
    with pytest.raises(ConfigError, match=r"dataset.unseen: digits does not mark unseen labels.*`cached`"):
        data_splits.build_split(config, "train")
