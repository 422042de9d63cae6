"""A broken or hostile export is one error that names the file and says what to do."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mldec.data.own import documents
from mldec.data.own.recognise import recognise
from mldec.data.own.voc_files import image_set_names
from mldec.errors import DataError
from tests.data.own.test_exports import DATUMARO, FILES, coco, fiftyone_sample, present, read, save, touch, voc, yolo


def refuse(path: Path, match: str, **settings: str) -> None:
    with pytest.raises(DataError, match=match) as error:
        recognise(str(path), **settings)
    message = str(error.value)
    assert str(path) in message
    assert len(message) < 1500
    assert "\n" not in message


MISTAKES: dict[str, tuple[str, Any, str]] = {
    "deep": ("a.json", "[" * 200_000, "nested too deeply"),
    "cut": ("a.json", '[{"path": "a.jpg"', "cut short"),
    "twice": ("a.json", '{"a.jpg": ["x"], "a.jpg": ["y"]}', "the key 'a.jpg' 2 times"),
    "number": ("a.json", {"a.jpg": [10**400]}, "integer of .* bits is no name of a label"),
    "nested": ("a.json", {"a.jpg": [["cat"]]}, "is no name of a label"),
    "truth": ("a.json", {"a.jpg": True}, "True is no name of a label"),
    "long": ("a.json", {"a.jpg": ["x" * 10**6]}, "is no name of a label"),
    "state": ("a.json", {"a.jpg": {"cat": 2}}, "cat is 2; allowed are 1 present"),
    "no labels": ("a.json", [{"path": "a.jpg", "age": 3.5}], r"Use dataset.label_column=NAME"),
    "gap": ("a.json", [{"path": "a.jpg", "labels": []}, {"path": "b.jpg"}], "b.jpg has no labels"),
    "commas": ("a.json", {"a.jpg": "cat,dog", "b.jpg": "cat"}, "'cat,dog' may be several.*separator=comma"),
    "split": ("a.json", [{"path": "a.jpg", "labels": [], "split": "holdout"}], "holdout is none of the splits"),
    "coco ids": ("a.json", {**coco("cat", a=["cat"]), "images": []}, "image_id 0, which no image has"),
    "coco null": (
        "a.json",
        {**coco("cat", a=[]), "annotations": [{"image_id": None, "category_id": 0}]},
        "annotation 1 has the image_id None",
    ),
    "coco alone": ("a.json", {"images": [], "categories": []}, "no `annotations`"),
    "coco shape": ("a.json", {"images": [[]], "categories": [], "annotations": []}, "looks like COCO JSON, but"),
    "datumaro": ("a.json", {**DATUMARO, "categories": {}}, "looks like Datumaro JSON, but a value .*no 'label'"),
    "fiftyone": ("labels.json", {"classes": ["cat"], "labels": {"a": 1}}, "1 is no place in the 1 classes"),
    "mmpretrain": (
        "a.json",
        {"metainfo": {"classes": ["A"]}, "data_list": [{"img_path": "a.jpg", "gt_label": [-1]}]},
        "-1 is no place in the 1 classes",
    ),
    "bomb": (
        "annotations.xml",
        '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>',
        "holds a document type or entities",
    ),
    "tracks": (
        "annotations.xml",
        "<annotations><track id='0' label='car'/></annotations>",
        "export it as 'CVAT for im",
    ),
    "no name": ("annotations.xml", "<annotations><image id='0'/></annotations>", "None is no path of an image"),
    "aliases": ("data.yaml", "a: &a [1, 1]\nnames: [*a, *a]\ntrain: .\n", "anchors, aliases and tags are not read"),
    "tags": ("data.yaml", "names: !!python/object:os.system [a]\ntrain: .\n", "tags are not read"),
    "yaml deep": ("data.yaml", "names: " + "[" * 5000, "more than 20 levels"),
    "many": ("data.yaml", "nc: 1000000000\ntrain: .\n", "allowed are 1 to 100,000 classes"),
    "digits": ("data.yaml", f"nc: {'9' * 5000}\ntrain: .\n", "allowed are 1 to 100,000 classes"),
    "numbers": ("data.yaml", "names: {0: a, 2: b}\ntrain: .\n", "its numbers must be 0 to 1"),
    "outside": (
        "data.yaml",
        "path: ../..\ntrain: ../../etc\nnames: [a]\n",
        r"does not exist below .*dataset.root=FOLDER",
    ),
    "device": ("data.yaml", "train: /dev/zero\nnames: [a]\n", r"does not exist below"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_broken_or_hostile_file_is_one_error(tmp_path: Path, name: str) -> None:
    file, content, message = MISTAKES[name]
    refuse(save(tmp_path / file, content), message)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "expected a class, 0 to 1"),
        ("cat", "expected a class"),
        ("1\n", "and the numbers of a box"),
    ],
)
def test_broken_labels_of_ultralytics(tmp_path: Path, lines: str, message: str) -> None:
    path = yolo(tmp_path, "train: images\nval: images\nnames: [a, b]\n", {"images/a.jpg": f"0 1 1 1 1\n{lines}"})
    with pytest.raises(DataError, match=f"a.txt line 2: .*{message}"):
        recognise(str(path))


def test_no_labels_of_ultralytics(tmp_path: Path) -> None:
    path = yolo(tmp_path, "train: images\nval: images\nnames: [a, b]\n", {"images/a.jpg": None})
    refuse(path, r"none of its 1 image has a file of labels, such as .*labels/a\.txt")


def test_lists_of_ultralytics_stay_within_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "secret.txt", "0 1 1 1 1")
    text = "train: train.txt\nval: images\nnames: [a]\n"
    path = yolo(tmp_path / "in", text, {"images/a.jpg": "0 1 1 1 1"})
    save(tmp_path / "in" / "train.txt", "../secret.jpg\n/etc/passwd.jpg\n./../secret.jpg\n")
    listing = read(path)
    assert all(not file.endswith(("secret.txt", "passwd.txt")) for file in listing.files)
    assert present(listing)["../secret.jpg"] == set()  # refused or found by its end, as in every listing


def test_two_images_of_one_name_in_voc(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "a.png")
    save(tmp_path / "a.xml", voc("a.png", ("cat", 0)))
    assert present(read(tmp_path)) == {"a.png": {"cat"}}
    save(tmp_path / "a.xml", voc("", ("cat", 0)))
    refuse(tmp_path, r"a\.xml: which of a\.jpg and a\.png does it describe")


def test_choices_are_named_and_taken(tmp_path: Path) -> None:
    rows = [{"photo": "a.jpg", "mask": "m.png", "animal": "cat", "weather": "sun"}]
    path = save(tmp_path / "a.json", rows)
    refuse(path, r"Use dataset\.label_column=NAME")
    assert present(read(path, label_column="weather")) == {"a.jpg": {"sun"}}
    assert present(read(path, label_column="animal", path_column="mask")) == {"m.png": {"cat"}}
    refuse(path, "dataset.path_column=x: no such key", path_column="x")
    sample = fiftyone_sample("a.jpg", {"_cls": "Classification", "label": "cat"})
    sample["other"], sample["truth"] = {"_cls": "Classification", "label": "dog"}, sample.pop("ground_truth")
    path = save(tmp_path / "samples.json", {"samples": [sample]})
    refuse(path, "which of the fields other, truth holds the labels")
    assert present(read(path, label_column="truth")) == {"a.jpg": {"cat"}}


ODD: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**30,
    "",
    "x",
    "../../a.jpg",
    "\ud800",
    [],
    {},
    [[]],
    [{}],
    {"a": {}},
    ["a", 1],
]


@pytest.mark.parametrize("name", [name for name, (_, content, _) in FILES.items() if not isinstance(content, str)])
def test_odd_values_anywhere_are_read_or_one_error(tmp_path: Path, name: str) -> None:
    rng = random.Random(1)
    for _ in range(60):
        content = json.loads(json.dumps(FILES[name][1]))
        for _ in range(rng.randint(1, 3)):
            places: list[tuple[Any, Any]] = []
            waiting = [content]
            while waiting:
                box = waiting.pop()
                for key in list(box) if isinstance(box, dict) else range(len(box)) if isinstance(box, list) else ():
                    places.append((box, key))
                    waiting.append(box[key])
            if places:
                box, key = rng.choice(places)
                box[key] = json.loads(json.dumps(rng.choice(ODD)))
        path = save(tmp_path / FILES[name][0], content)
        try:
            listing = recognise(str(path))
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017 (most are read)
        else:
            for entry in listing.entries() if listing else ():
                assert all(
                    isinstance(text, str) for text in (entry.path, *entry.present, *entry.absent, *entry.unknown)
                )


def test_images_may_be_named_by_ids(tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", [{"image_id": "0001", "labels": ["cat"]}, {"image_id": "0002", "labels": []}])
    assert present(read(path)) == {"0001": {"cat"}, "0002": set()}
    path = save(tmp_path / "a.json", [{"path": "a.jpg", "labels": []}, {"path": "b.jpg", "labels": []}, {"path": None}])
    refuse(path, "has no labels")


def test_a_file_that_is_no_regular_one_is_refused(tmp_path: Path) -> None:
    link: Callable[[str], None] = (tmp_path / "annotations.json").symlink_to
    link("/dev/zero")
    refuse(tmp_path / "annotations.json", "is not a regular file")


def test_long_lines_of_an_image_set_take_linear_time(tmp_path: Path) -> None:
    names = ["b" + " " * 2**19 + "c", "d" * 2**19, "e" + " " * 2**19 + "e", "000005", "a b"]
    lines = [*names[:3], "000005 -1", "a b  1"]
    (tmp_path / "train.txt").write_text("".join(f"{line}\n" for line in lines))
    assert image_set_names(str(tmp_path / "train.txt"), str(tmp_path)) == names


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
def test_yaml_is_parsed_by_libyaml_into_text(tmp_path: Path) -> None:
    """PyYAML's own parser takes ten times longer, so that 90,000 names took most of a minute."""
    assert issubclass(documents._TextLoader, yaml.CBaseLoader)
    (tmp_path / "data.yaml").write_text("names: {0: no, 1: 1e3, 2: ~}\nval: [a, 'b c']\n")
    expected = {"names": {"0": "no", "1": "1e3", "2": "~"}, "val": ["a", "b c"]}
    assert documents.read_yaml(str(tmp_path / "data.yaml")) == expected
