"""Properties: what a reader of an export lists becomes an index, whatever the format."""

import json
from pathlib import Path

import pytest

from mldec.data import table
from mldec.data.folder import FolderConfig, build_folder
from mldec.data.index import ImageIndex
from mldec.data.own.label_names import similar_names
from mldec.data.own.listing import Entry, Listing
from mldec.data.own.locate import locate
from mldec.data.table import TableConfig, build_table
from mldec.errors import DataError
from mldec.registry import DATASETS
from tests.tables import touch

ENTRIES = [
    Entry("images/a.jpg", ["dog"], ["cat"], [], "train", line=1),
    Entry("images/b.jpg", ["cat"], [], ["dog"], "val", line=2),
    Entry("images/a.jpg", ["bird"], split="train", line=3),
    Entry("c.jpg", [], split="train", folder="FOLDER/images/deep", line=4),
]


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("images/a.jpg", "images/b.jpg", "images/deep/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    path = tmp_path / "annotations" / "export.json"
    path.parent.mkdir()
    path.write_text("{}")
    entries = [
        Entry(e.path, e.present, e.absent, e.unknown, e.split, e.folder and e.folder.replace("FOLDER", str(tmp_path)))
        for e in ENTRIES
    ]

    def recognise(source: str, **settings: object) -> Listing:
        labels = ("dog", "cat", "bird", "fish")
        return Listing(source, "a tool's JSON", str(tmp_path), lambda: iter(entries), labels, (str(path),))

    monkeypatch.setattr(table, "recognise", recognise)
    table._read_outline.cache_clear()
    return path


@pytest.mark.parametrize("whole", [False, True])
def test_a_listing_becomes_an_index(export: Path, tmp_path: Path, whole: bool) -> None:
    config = TableConfig(name="table", train=str(tmp_path if whole else export))
    assert config.splits == ("train", "val")
    for _ in range(2):  # read, and from the cache
        train, val = (build_table(config, split=split) for split in config.splits)
        assert train.labels.names == ("dog", "cat", "bird", "fish")
        assert list(train.names()) == ["images/a.jpg", "images/deep/c.jpg"]
        assert train.targets([0, 1]).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
        assert val.targets([0]).tolist() == [[-1, 1, 0, 0]]
        assert train.root == str(tmp_path)
    unlisted = build_table(TableConfig(name="table", train=str(export), unlisted="unknown"), split="train")
    assert unlisted.targets([0]).tolist() == [[1, 0, 1, -1]]


def test_what_is_not_recognised_is_named(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "recognise", lambda path, **settings: None)
    with pytest.raises(DataError, match=r"export\.json: is no table .* and no export that is known"):
        build_table(TableConfig(name="table", train=str(export)), split="train")


@pytest.mark.parametrize(
    ("folders", "root", "splits", "labels"),
    [
        (["Training/cat", "Training/dog", "Testing/cat", "Testing/dog"], ".", ("train", "test"), ("cat", "dog")),
        (["Train/cat", "Train/dog", "Test/cat"], ".", ("train", "test"), ("cat", "dog")),
        (["training/x", "running/y"], ".", ("train",), ("running", "training")),  # classes, not splits
        (["PetImages/Cat", "PetImages/Dog"], "PetImages", ("train",), ("Cat", "Dog")),
    ],
)
def test_folders_of_splits_and_of_classes(
    tmp_path: Path, folders: list[str], root: str, splits: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    for folder in folders:
        touch(tmp_path, f"{folder}/1.jpg")
    found = locate(str(tmp_path))
    assert (found.name, found.settings["root"]) == ("folder", str((tmp_path / root).resolve()))
    config = FolderConfig(name="folder", root=found.settings["root"], missing="ignore")
    assert config.splits == splits
    for split in splits:
        assert build_folder(config, split=split).labels.names == labels


def test_a_split_in_two_folders_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "val/a/2.jpg", "valid/a/3.jpg")
    with pytest.raises(DataError, match="the folders val and valid may be its val; keep one of them there"):
        locate(str(tmp_path))


def voc(name: str) -> str:
    return f"<annotation><filename>x.jpg</filename><object><name>{name}</name></object></annotation>"


def coco(*names: str, used: str) -> str:
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    annotations = [{"id": 1, "image_id": 1, "category_id": names.index(used)}]
    return json.dumps(
        {"images": [{"id": 1, "file_name": "x.jpg"}], "categories": categories, "annotations": annotations}
    )


ONLY_VAL = {  # files of a dataset with an image of cat in train and one of dog in val
    "coco": {
        "train/_annotations.coco.json": coco("cat", used="cat"),
        "valid/_annotations.coco.json": coco("cat", "dog", "no image", used="dog"),
    },
    "coco, the same categories": {
        "train/_annotations.coco.json": coco("dog", "cat", used="cat"),
        "valid/_annotations.coco.json": coco("dog", "cat", used="dog"),
    },
    "yolo": {
        "data.yaml": "names: [dog, cat]\ntrain: train/images\nval: valid/images\n",
        "train/labels/x.txt": "1 0.5 0.5 0.1 0.1\n",
        "valid/labels/x.txt": "0 0.5 0.5 0.1 0.1\n",
        "train/images/x.jpg": "",
        "valid/images/x.jpg": "",
    },
    "voc": {"train/x.xml": voc("cat"), "valid/x.xml": voc("dog")},
    "class columns": {
        "train/_classes.csv": "filename,cat\nx.jpg,1\n",
        "valid/_classes.csv": "filename,cat,dog\nx.jpg,0,1\n",
    },
    "class folders": {"train/cat/x.jpg": "", "valid/dog/x.jpg": "", "valid/cat/x.jpg": ""},
    "table": {"t.csv": "path,labels,split\ntrain/x.jpg,cat,train\nvalid/x.jpg,dog,val\n"},
    "jsonl": {
        "train/metadata.jsonl": '{"file_name": "x.jpg", "labels": ["cat"]}\n',
        "valid/metadata.jsonl": '{"file_name": "x.jpg", "labels": ["dog"]}\n',
    },
}


@pytest.mark.parametrize("form", ONLY_VAL)
def test_labels_that_only_val_has_are_one_error_in_every_format(tmp_path: Path, form: str) -> None:
    if form not in ("class folders", "yolo"):
        touch(tmp_path, "train/x.jpg", "valid/x.jpg")
    for name, content in ONLY_VAL[form].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = locate(str(tmp_path))
    kind = DATASETS[found.name]

    def build(mode: str | None, split: str) -> ImageIndex:
        return kind.build(kind.config_class(name=found.name, **found.settings, labels=mode), split=split)

    with pytest.raises(DataError) as caught:
        [build(None, split) for split in ("train", "val")]
    assert "dataset.labels=union" in str(caught.value)
    assert "dataset.labels=train" in str(caught.value)
    for split, label in (("train", "cat"), ("val", "dog")):
        union, train = build("union", split), build("train", split)
        assert {"cat", "dog"} == set(union.labels.names)
        assert label in {union.labels.names[column] for row in range(len(union)) for column in union.positives[row]}
        assert train.labels.names == ("cat",)
        assert train.targets([0]).tolist() == [[int(split == "train" or form == "class folders")]]


def test_names_that_look_alike() -> None:
    assert similar_names(["-1", "1", "1 2", "12", "cat", "C+", "C"]) == []
    groups = [
        ["Cat", "cat ", "CAT"],
        ["black grass", "blackgrass", "black_grass"],
        ["é", "e\u0301"],
        ["class1", "class 1"],
    ]
    assert similar_names([name for group in groups for name in group]) == groups
