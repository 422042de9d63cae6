import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mldec.data.coco import CocoConfig, CocoJsonConfig, build_coco, build_coco_json, read_coco_json
from mldec.errors import ConfigError, DataError

CATEGORIES = [{"id": 7, "name": "train"}, {"id": 2, "name": "bicycle"}, {"id": 90, "name": "toothbrush"}]


def write(folder: Path, annotations: list[tuple[int, int, int]], names: dict[int, str], **changes) -> str:
    """COCO JSON with (image, category, iscrowd) boxes, and its images."""
    images = folder / "images"
    for name in names.values():
        if ".." not in name and not name.startswith("/"):
            (images / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(images / name)
    content = {
        "images": [{"id": image, "file_name": name} for image, name in names.items()],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "iscrowd": crowd, "bbox": [0, 0, 1, 1], "area": 1}
            for i, (image, category, crowd) in enumerate(annotations)
        ],
        "categories": CATEGORIES,
    } | changes
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_labels_follow_category_ids_and_crowds_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [(30, 7, 0), (30, 7, 0), (30, 90, 1), (4, 2, 0)]
    path = write(tmp_path, boxes, {30: "c.jpg", 4: "sub/a.jpg", 11: "b.jpg"})
    index = read_coco_json(path, str(tmp_path / "images"))
    assert index.labels.names == ("bicycle", "train", "toothbrush")
    assert [Path(index.path(row)).name for row in range(3)] == ["a.jpg", "b.jpg", "c.jpg"]
    assert index.targets([0, 1, 2]).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert capsys.readouterr().out == ""


def test_a_image_listed_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [(1, 2, 0)], {1: "a.jpg", 2: "a.jpg"})
    with pytest.raises(DataError, match=r"instances.json: .*'a.jpg' is listed twice"):
        read_coco_json(path, str(tmp_path / "images"))


@pytest.mark.parametrize("name", ["/abs.jpg", "../up.jpg", "a/../../b.jpg"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, [(1, 2, 0)], {1: name})
    with pytest.raises(DataError, match="leaves the dataset's folder"):
        read_coco_json(path, str(tmp_path / "images"))


def config(folder: Path, **settings) -> CocoJsonConfig:
    defaults = {"train": str(folder / "instances.json"), "train_images": str(folder / "images")}
    return CocoJsonConfig(name="coco_json", **defaults | settings)


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path, [(1, 2, 0)], {i: f"{i}.jpg" for i in range(1, 8)})
    for gone in range(2, 7):
        (tmp_path / "images" / f"{gone}.jpg").unlink()
    with pytest.raises(DataError, match=r"5 of the 7 images that .* list are missing \(2\.jpg, 3\.jpg, 4"):
        build_coco_json(config(tmp_path), split="train")
    some = build_coco_json(config(tmp_path, missing="drop"), split="train")
    assert list(some.names()) == ["1.jpg", "7.jpg"]
    assert len(build_coco_json(config(tmp_path, missing="ignore"), split="train")) == 7


def test_categories_of_another_file_belong_to_labels_by_name(tmp_path: Path) -> None:
    """Tools that export val anew number categories anew."""
    write(tmp_path, [(1, 2, 0), (2, 90, 0)], {1: "a.jpg", 2: "b.jpg"})
    (tmp_path / "val").mkdir()
    other = [{"id": 1, "name": "toothbrush"}, {"id": 2, "name": "train"}]
    val = write(tmp_path / "val", [(1, 1, 0), (2, 2, 0)], {1: "c.jpg", 2: "d.jpg"}, categories=other)
    settings = {"val": val, "val_images": str(tmp_path / "val" / "images")}
    index = build_coco_json(config(tmp_path, **settings), split="val")
    assert index.labels.names == ("bicycle", "train", "toothbrush")
    assert index.targets([0, 1]).tolist() == [[0, 0, 1], [0, 1, 0]]
    for name, text in (
        ("names.txt", "# in our order\ntoothbrush\nbicycle\n\ntrain\n"),
        ("names.yaml", "names: [toothbrush, bicycle, train]"),
    ):
        (tmp_path / name).write_text(text)
        index = build_coco_json(config(tmp_path, labels=str(tmp_path / name), **settings), split="train")
        assert index.targets([0, 1]).tolist() == [[0, 1, 0], [1, 0, 0]]
    write(tmp_path / "val", [(1, 1, 0)], {1: "c.jpg"}, categories=[{"id": 1, "name": "tooth brush"}])
    with pytest.raises(DataError, match=r"instances.json: no label 'tooth brush'; did you mean toothbrush"):
        build_coco_json(config(tmp_path, **settings), split="val")
    assert config(tmp_path).splits == ("train",)
    with pytest.raises(
        DataError, match=r"dataset.train=.*nothing.json: no such file. Found in .*: images/, instances.json"
    ):
        build_coco_json(config(tmp_path, train=str(tmp_path / "nothing.json")), split="train")


def twice(content: str, name: str, /, **changed: object) -> str:
    """The first entry of a list once more, with other values."""
    mapping = json.loads(content)
    mapping[name].append(mapping[name][0] | changed)
    return json.dumps(mapping)


def test_broken_annotations_are_named(tmp_path: Path) -> None:
    path = Path(write(tmp_path, [(1, 2, 0)], {1: "a.jpg"}))
    whole = path.read_text()
    for content, message in [
        (whole[:50], "cut short"),
        ("[]", "not COCO JSON"),
        (whole.replace('"train"', '"bicycle"'), "label names must differ; found more than once: bicycle"),
        (whole.replace('"image_id": 1', '"image_id": 5'), r"image id 5, which is not among `images` \(allowed: 1\)"),
        (whole.replace('"category_id": 2', '"category_id": 3'), r"category id 3, which is not among .* \(allowed: .*2"),
        (whole.replace('"category_id"', '"category"'), "no 'category_id'"),
        (whole.replace("file_name", "file"), "no 'file_name'"),
        (whole.replace('"a.jpg"', "3"), "image path 3: expected text"),
        (whole.replace('"annotations"', '"labels"'), "no `annotations`"),
        (twice(whole, "images", file_name="b.jpg"), "`images` holds the id 1 more than once"),
        (twice(whole, "images", file_name="b.jpg", id="x"), "`images` holds ids of the types int and str"),
        (twice(whole, "images", id=9), "'a.jpg' is listed twice"),
        (twice(whole, "images", id=9, file_name=".//a.jpg"), "'a.jpg' is listed twice"),
        (twice(whole, "categories", name="plane"), "`categories` holds the id . more than once"),
        ('{"images": [], "annotations": [], "categories": []}', "0 images"),
    ]:
        path.write_text(content)
        with pytest.raises(DataError, match=message) as caught:
            read_coco_json(str(path), str(tmp_path / "images"))
        assert "instances.json" in str(caught.value)
    with pytest.raises(DataError, match=r"absent.json: cannot be read: No such file"):
        read_coco_json(str(tmp_path / "absent.json"), str(tmp_path / "images"))


@pytest.mark.parametrize("year", [2014, 2017])
def test_an_incomplete_root_is_explained(tmp_path: Path, year: int) -> None:
    config = CocoConfig(name="coco", root=str(tmp_path), year=year)
    (tmp_path / f"train{year}").mkdir()
    with pytest.raises(DataError) as caught:
        build_coco(config, split="train")
    message = str(caught.value)
    assert f"annotations/instances_train{year}.json   <- missing" in message
    assert f"Found there: train{year}/" in message
    assert f"mldec data download dataset=coco dataset.year={year} root={tmp_path}" in message
    assert "dataset.root=" in message
    absent = CocoConfig(name="coco", root=str(tmp_path / "absent"), year=year)
    with pytest.raises(DataError, match="no such folder"):
        build_coco(absent, split="test")
    with pytest.raises(ConfigError, match="allowed: train, test"):
        build_coco(config, split="val")


def test_the_real_sample_reads_as_json_says(tiny_coco: Path) -> None:
    for split, name in (("train", "train2017"), ("test", "val2017")):
        index = build_coco(CocoConfig(name="coco", root=str(tiny_coco), year=2017), split=split)
        content = json.loads((tiny_coco / "annotations" / f"instances_{name}.json").read_text())
        ids = [category["id"] for category in sorted(content["categories"], key=lambda category: category["id"])]
        rows = {image["file_name"]: row for row, image in enumerate(sorted(content["images"], key=lambda x: x["id"]))}
        files = {image["id"]: image["file_name"] for image in content["images"]}
        expected = np.zeros((50, 80), np.int8)
        for annotation in content["annotations"]:
            expected[rows[files[annotation["image_id"]]], ids.index(annotation["category_id"])] = 1
        np.testing.assert_array_equal(index.targets(range(50)), expected)
        assert [Path(index.path(row)).name for row in range(50)] == sorted(rows)
        dropped = build_coco(CocoConfig(name="coco", root=str(tiny_coco), year=2017, unannotated="drop"), split=split)
        assert len(dropped) == int(expected.any(1).sum())
    assert index.labels.names[0] == "person"
    assert index.labels.names[-1] == "toothbrush"
