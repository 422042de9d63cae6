"""Each export, written as its tool writes it, is read with the labels, states and splits that it says, in any order."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mldec.data import table
from mldec.data.own.label_cells import labels_of
from mldec.data.own.listing import Listing
from mldec.data.own.locate import locate
from mldec.data.own.recognise import recognise
from mldec.data.own.separators import Separator
from mldec.errors import DataError

BOX = {"x": 1, "y": 2, "width": 3, "height": 4}


def save(path: Path, content: Any, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def read(path: Path, **settings: Any) -> Listing:
    listing = recognise(str(path), **settings)
    assert listing is not None
    assert str(path) in listing.files or path.is_dir()
    return listing


def joined_states(listing: Listing) -> dict[str, tuple[set[str], set[str], set[str], str | None]]:
    """{path: present, absent, unknown, split}; entries of an image are joined."""
    found: dict[str, tuple[set[str], set[str], set[str], str | None]] = {}
    for entry in listing.entries():
        before = found.get(entry.path, (set(), set(), set(), entry.split))
        groups = (entry.present, entry.absent, entry.unknown)
        found[entry.path] = (*(old | set(new) for old, new in zip(before[:3], groups, strict=True)), entry.split)
    return found


def present(listing: Listing) -> dict[str, set[str]]:
    return {path: states[0] for path, states in joined_states(listing).items()}


# ---------------------------------------------------------------- one file


def label_studio_result(kind: str, *labels: str) -> dict[str, Any]:
    place = {} if kind == "choices" else BOX
    return {"from_name": "control", "to_name": "image", "type": kind, "value": {**place, kind: list(labels)}}


def label_studio(*rows: tuple[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "annotations": annotations,
            "data": {"image": path, "site": "Berlin"},
            "predictions": [{"result": [label_studio_result("choices", "Wrong")]}],
        }
        for number, (path, annotations) in enumerate(rows, start=1)
    ]


def annotation(*results: dict[str, Any], was_cancelled: bool = False) -> dict[str, Any]:
    return {"id": 7, "completed_by": 1, "was_cancelled": was_cancelled, "result": list(results), "lead_time": 1.5}


LABEL_STUDIO = label_studio(
    ("/data/upload/1/ab12cd-p01.jpg", [annotation(label_studio_result("choices", "Cat", "Dog"))]),
    ("/data/local-files/?d=photos%2Fp02.jpg", [annotation(label_studio_result("rectanglelabels", "Bird"))]),
    ("/data/upload/1/p03.jpg", [annotation()]),
    ("/data/upload/1/p04.jpg", []),
    ("/data/upload/1/p05.jpg", [annotation(label_studio_result("choices", "Cat"), was_cancelled=True)]),
    (
        "/data/upload/1/p06.jpg",
        [annotation(label_studio_result("choices", "Cat")), annotation(label_studio_result("choices", "Dog"))],
    ),
)


def record(path: str, **controls: Any) -> dict[str, Any]:
    times = {"created_at": "2026-01-02T10:00:00Z", "updated_at": "2026-01-02T10:00:00Z", "lead_time": 5.1}
    return {"image": path, "site": "Berlin", "id": 1, **controls, "annotator": 1, "annotation_id": 1, **times}


JSON_MIN = [
    record("/data/upload/1/p01.jpg", choice={"choices": ["Cat", "Dog"]}),
    record("/data/upload/1/p02.jpg", choice="Bird"),
    record("/data/upload/1/p03.jpg"),
    record("/data/upload/1/p04.jpg", box=[{**BOX, "rectanglelabels": ["Cat"], "original_width": 9}]),
    {**record("/data/upload/1/p05.jpg"), "annotation_id": None},
]


def coco(*categories: str, **images: list[str]) -> dict[str, Any]:
    """Annotations in COCO's format, with null ids of annotations and backslashes in names."""
    return {
        "info": {},
        "images": [{"id": n, "file_name": f"sub\\{name}.jpg"} for n, name in enumerate(images)],
        "categories": [
            {"id": n, "name": name, "supercategory": "x"} for n, name in reversed(list(enumerate(categories)))
        ],
        "annotations": [
            {"id": None, "image_id": n, "category_id": categories.index(label), "bbox": [0, 0, 1, 1], "iscrowd": 0}
            for n, labels in enumerate(images.values())
            for label in labels
        ],
    }


DATUMARO = {
    "dm_format_version": "1.0",
    "media_type": 2,
    "infos": {},
    "categories": {
        "label": {"labels": [{"name": n, "parent": "", "attributes": []} for n in ("cat", "dog")], "label_groups": []}
    },
    "items": [
        {
            "id": "a",
            "annotations": [
                {"id": 0, "type": "label", "attributes": {}, "group": 0, "label_id": 1},
                {"id": 0, "type": "bbox", "attributes": {}, "group": 1, "label_id": 0, "bbox": [0, 0, 1, 1]},
                {"id": 0, "type": "caption", "attributes": {}, "group": 0, "caption": "a cat"},
            ],
            "image": {"path": "a.jpg", "size": [32, 40]},
        },
        {"id": "b", "annotations": [], "image": {"path": "b.jpg"}},
    ],
}


def fiftyone_sample(path: str, field: Any, *tags: str) -> dict[str, Any]:
    metadata = {"_cls": "ImageMetadata", "width": 40}
    return {"_id": {"$oid": "6"}, "filepath": path, "tags": list(tags), "metadata": metadata, "ground_truth": field}


FIFTYONE_SAMPLES = {
    "samples": [
        fiftyone_sample("data/a.jpg", {"_cls": "Classification", "label": "cat"}, "train"),
        fiftyone_sample(
            "data/b.jpg",
            {"_cls": "Classifications", "classifications": [{"_cls": "Classification", "label": n} for n in "xy"]},
            "validation",
        ),
        fiftyone_sample("data/c.jpg", {"_cls": "Detections", "detections": [{"_cls": "Detection", "label": "dog"}]}),
        fiftyone_sample("data/d.jpg", None),
    ]
}

VIA_IMAGES = {
    "a.jpg123": {
        "filename": "a.jpg",
        "size": 123,
        "regions": [
            {"shape_attributes": {"name": "rect", **BOX}, "region_attributes": {"class": "dog"}},
            {"shape_attributes": {"name": "rect", **BOX}, "region_attributes": {"class": "dog"}},
        ],
        "file_attributes": {"caption": "a dog", "tags": {"outside": True, "sunny": True, "rainy": False}},
    },
    "b.jpg77": {"filename": "b.jpg", "size": 77, "regions": [], "file_attributes": {}},
}
VIA_PROJECT = {
    "_via_settings": {"ui": {}, "core": {}, "project": {"name": "p"}},
    "_via_img_metadata": {
        "a.jpg1": {
            "filename": "a.jpg",
            "size": 1,
            "regions": [{"shape_attributes": {}, "region_attributes": {"kind": "2", "note": "blurred"}}],
            "file_attributes": {},
        },
        "b.jpg1": {"filename": "b.jpg", "size": 1, "regions": [], "file_attributes": {}},
    },
    "_via_attributes": {
        "region": {
            "kind": {"type": "radio", "options": {"1": "cat", "2": "dog"}, "default_options": {}},
            "note": {"type": "text", "description": ""},
        },
        "file": {},
    },
    "_via_data_format_version": "2.0.10",
    "_via_image_id_list": ["a.jpg1", "b.jpg1"],
}

VIA_3_PROJECT = {
    "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": ["1", "2"]},
    "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}},
    "attribute": {
        "1": {"aname": "Class", "anchor_id": "FILE1_Z0_XY1", "type": 3, "options": {"K": "cat", "0": "dog"}},
        "2": {
            "aname": "tags",
            "anchor_id": "FILE1_Z0_XY0",
            "type": 2,
            "options": {"0": "sun", "1": "rain", "2": "fog"},
        },
        "3": {"aname": "note", "anchor_id": "FILE1_Z0_XY1", "type": 1, "options": {}},
    },
    "file": {
        str(n): {"fid": n, "fname": f"{name}.jpg", "type": 2, "loc": 1, "src": ""} for n, name in ((1, "a"), (2, "b"))
    },
    "view": {"1": {"fid_list": [1]}, "2": {"fid_list": ["2"]}},
    "metadata": {
        "1_abc": {"vid": "1", "flg": 0, "z": [], "xy": [2, 1, 1, 5, 5], "av": {"1": "K", "3": "blurred"}},
        "1_abd": {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {"2": "0,2"}},
    },
}

FILES: dict[str, tuple[str, Any, dict[str, set[str]]]] = {
    "Label Studio JSON": (
        "project-1-at-2026-01-02.json",
        LABEL_STUDIO,
        {
            "/data/upload/1/ab12cd-p01.jpg": {"Cat", "Dog"},
            "photos/p02.jpg": {"Bird"},
            "/data/upload/1/p03.jpg": set(),
            "/data/upload/1/p06.jpg": {"Cat", "Dog"},
        },
    ),
    "Label Studio JSON-MIN": (
        "project-1.json",
        JSON_MIN,
        {f"/data/upload/1/p0{n}.jpg": s for n, s in enumerate([{"Cat", "Dog"}, {"Bird"}, set(), {"Cat"}], start=1)},
    ),
    "COCO JSON": (
        "result.json",
        coco("cat", "dog", "owl", a=["dog", "cat", "dog"], b=[]),
        {"sub\\a.jpg": {"cat", "dog"}, "sub\\b.jpg": set()},
    ),
    "Datumaro JSON": ("default.json", DATUMARO, {"a.jpg": {"cat", "dog"}, "b.jpg": set()}),
    "FiftyOne labels.json": (
        "labels.json",
        {"classes": ["cat", "dog"], "labels": {"x/a": 0, "b": ["dog", 0], "c": [], "d": None}},
        {"x/a": {"cat"}, "b": {"cat", "dog"}, "c": set()},
    ),
    "FiftyOne samples.json": (
        "samples.json",
        FIFTYONE_SAMPLES,
        {"data/a.jpg": {"cat"}, "data/b.jpg": {"x", "y"}, "data/c.jpg": {"dog"}},
    ),
    "mmpretrain JSON": (
        "multi_label.json",
        {
            "metainfo": {"classes": ["A", "B", "C"]},
            "data_list": [
                {"img_path": "a.jpg", "gt_label": [0, 2]},
                {"img_path": "b.jpg", "gt_label": 1},
                {"img_path": "c.jpg", "img_label": []},
            ],
        },
        {"a.jpg": {"A", "C"}, "b.jpg": {"B"}, "c.jpg": set()},
    ),
    "VGG Image Annotator JSON": (
        "via_export_json.json",
        VIA_IMAGES,
        {"a.jpg": {"dog", "outside", "sunny"}, "b.jpg": set()},
    ),
    "CreateML JSON": (
        "_annotations.createml.json",
        [
            {"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": BOX}] * 2},
            {"image": "b.jpg", "annotations": []},
        ],
        {"a.jpg": {"cat"}, "b.jpg": set()},
    ),
    "JSON list of images": (
        "mine.json",
        [
            {"file_name": "a.jpg", "tags": ["cat", 7]},
            {"file_name": "b.jpg", "tags": "dog"},
            {"file_name": "c.jpg", "tags": None},
        ],
        {"a.jpg": {"cat", "7"}, "b.jpg": {"dog"}, "c.jpg": set()},
    ),
    "JSON mapping of images": (
        "mine.json",
        {"x/a.jpg": ["cat", "dog"], "b.png": "dog", "c.webp": []},
        {"x/a.jpg": {"cat", "dog"}, "b.png": {"dog"}, "c.webp": set()},
    ),
    "CVAT for images 1.1": (
        "annotations.xml",
        """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><mode>annotation</mode><labels>
    <label><name>plate</name><type>any</type><attributes></attributes></label>
    <label><name>car</name><attributes><attribute><name>colour</name></attribute></attributes></label>
    <label><name>man</name><type>skeleton</type><attributes></attributes><svg>&lt;line&gt;</svg></label>
    <label><name>1</name><type>points</type><attributes></attributes><parent>man</parent></label>
  </labels></task><dumped>2026-01-02</dumped></meta>
  <image id="0" name="sub/a b.jpg" subset="Train" width="16" height="12">
    <box label="plate" xtl="1" ytl="1" xbr="2" ybr="2" occluded="0" z_order="4"></box>
    <polygon label="car" points="1,1;2,2;3,3" occluded="0"><attribute name="colour">red</attribute></polygon>
    <skeleton label="man" z_order="0"><points label="1" outside="0" points="1,1"></points></skeleton>
  </image>
  <image id="1" name="b.jpg" subset="Validation" width="16" height="12"><tag label="car" source="manual"></tag></image>
  <image id="2" name="c.jpg" width="16" height="12"></image>
</annotations>""",
        {"sub/a b.jpg": {"plate", "car", "man"}, "b.jpg": {"car"}, "c.jpg": set()},
    ),
}
LABELS = {
    "COCO JSON": ("cat", "dog", "owl"),
    "Datumaro JSON": ("cat", "dog"),
    "FiftyOne labels.json": ("cat", "dog"),
    "mmpretrain JSON": ("A", "B", "C"),
    "CVAT for images 1.1": ("plate", "car", "man"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_labels_that_its_tool_wrote(tmp_path: Path, name: str) -> None:
    file, content, expected = FILES[name]
    listing = read(save(tmp_path / file, content, "utf-8-sig"))  # with a byte order mark
    assert listing.format == name
    assert present(listing) == expected
    assert listing.labels == LABELS.get(name)
    assert listing.folder == str(tmp_path)
    assert list(listing.entries()) == list(listing.entries())  # from the beginning each time


@pytest.mark.parametrize("name", [name for name, (_, content, _) in FILES.items() if not isinstance(content, str)])
def test_the_order_of_entries_changes_nothing_else(tmp_path: Path, name: str) -> None:
    file, content, expected = FILES[name]

    def shuffled(value: Any) -> Any:
        lists = (
            [value] if isinstance(value, list) else [v for k, v in value.items() if k not in ("classes", "metainfo")]
        )
        for items in (items for items in lists if isinstance(items, list)):
            random.Random(3).shuffle(items)
        return value

    listing = read(save(tmp_path / file, shuffled(json.loads(json.dumps(content)))))
    assert present(listing) == expected
    assert listing.labels == LABELS.get(name)


def test_splits_of_subsets_tags_and_keys(tmp_path: Path) -> None:
    file, content, _ = FILES["CVAT for images 1.1"]
    assert [e.split for e in read(save(tmp_path / file, content)).entries()] == ["train", "val", None]
    samples = read(save(tmp_path / "samples.json", FIFTYONE_SAMPLES))
    assert [e.split for e in samples.entries()] == ["train", "val", None]
    rows = [{"path": f"{n}.jpg", "labels": ["x"], "split": n} for n in ("train", "valid", "test")]
    assert [e.split for e in read(save(tmp_path / "a.json", rows)).entries()] == ["train", "val", "test"]
    rows = [{"path": f"{n}.jpg", "label": "x", "is_valid": n == "b"} for n in "ab"]
    assert [e.split for e in read(save(tmp_path / "b.json", rows)).entries()] == ["train", "val"]
    parts = {"train": {"a.jpg": ["x"]}, "valid": [{"image": "b.jpg", "label": "y"}]}
    listing = read(save(tmp_path / "c.json", parts))
    assert listing.format == "JSON with a list for each split"
    assert {path: states[3] for path, states in joined_states(listing).items()} == {"a.jpg": "train", "b.jpg": "val"}


def test_states_of_plain_json(tmp_path: Path) -> None:
    states = {"a.jpg": {"cat": 1, "dog": 0, "owl": -1, "cow": None, "hen": True}}
    expected = {"a.jpg": ({"cat", "hen"}, {"dog"}, {"owl", "cow"}, None)}
    assert joined_states(read(save(tmp_path / "mapping.json", states))) == expected
    rows = [{"path": "a.jpg", **states["a.jpg"]}]
    assert joined_states(read(save(tmp_path / "columns.json", rows))) == expected


@pytest.mark.parametrize("value", ["nan", "None", "null", "NA", ["NA"], [None], ["nan", "cat"], {"label": "N/A"}])
def test_texts_for_nothing_are_no_labels_in_plain_json(tmp_path: Path, value: Any) -> None:
    labels = {"cat"} if value == ["nan", "cat"] else set()
    for number, content in enumerate(
        ({"a.jpg": value, "b.jpg": "dog"}, [{"path": "a.jpg", "tags": value}, {"path": "b.jpg", "tags": "dog"}])
    ):
        listing = read(save(tmp_path / f"{number}.json", content))
        assert present(listing) == {"a.jpg": labels, "b.jpg": {"dog"}}
        said = "1 image with nan, None, NA or null, which are no labels"
        assert (said in listing.decisions) == (value != [None])


@pytest.mark.parametrize(
    "content",
    [
        {"a.jpg": {"cat": 1, "dog": -1}, "b.jpg": {"cat": -1, "dog": 1}},
        [{"path": "a.jpg", "cat": 1, "dog": "-1"}, {"path": "b.jpg", "cat": -1.0, "dog": True}],
        [{"path": "a.jpg", "labels": {"cat": 1, "dog": -1}}, {"path": "b.jpg", "labels": {"cat": -1, "dog": 1}}],
    ],
)
def test_keys_of_1_and_minus_1_are_for_the_user_to_decide(tmp_path: Path, content: Any) -> None:
    path = save(tmp_path / "a.json", content)
    with pytest.raises(
        DataError, match=r"2 of the 2 class keys hold 1 and -1 but no 0 .* use dataset.minus_one=absent"
    ):
        read(path)
    other: dict[str, tuple[set[str], set[str]]] = {"absent": ({"dog"}, set()), "unknown": (set(), {"dog"})}
    for setting, (absent, unknown) in other.items():
        states = joined_states(read(path, minus_one=setting))
        assert states["a.jpg"] == ({"cat"}, absent, unknown, None)


def test_keys_that_are_not_used_are_said(tmp_path: Path) -> None:
    rows = [{"path": "a.jpg", "labels": "cat", "tags": "sun", "age": 3}]
    assert read(save(tmp_path / "a.json", rows)).decisions == ("labels from labels; keys not used: tags, age",)
    path = save(tmp_path / "b.json", [{"path": "a.jpg", "cat": 1, "dog": 0.0, "age": 37}])
    with pytest.raises(DataError, match=r"the key age holds 37; .* Use dataset.ignore=\[age\] if age is no class"):
        read(path)
    assert joined_states(read(path, ignore=("age",))) == {"a.jpg": ({"cat"}, {"dog"}, set(), None)}


def test_what_was_left_out_or_joined_is_said(tmp_path: Path) -> None:
    tasks = read(save(tmp_path / "a.json", LABEL_STUDIO))
    assert "2 tasks without a submitted annotation left out" in tasks.decisions
    assert "1 task with more than one annotation: a label counts if any of them has it" in tasks.decisions
    assert "1 task without a submitted annotation left out" in read(save(tmp_path / "b.json", JSON_MIN)).decisions
    joined = read(save(tmp_path / "c.json", [{"path": "a.jpg", "labels": "cat;dog"}, {"path": "b.jpg", "labels": ""}]))
    assert present(joined) == {"a.jpg": {"cat", "dog"}, "b.jpg": set()}
    assert joined.options == {"dataset.separator": "semicolon"}


def test_tags_of_two_splits_are_one_error(tmp_path: Path) -> None:
    label = {"_cls": "Classification", "label": "cat"}
    samples = [
        fiftyone_sample("a.jpg", label, "train", "checked"),
        fiftyone_sample("b.jpg", label, "test", "train"),
        fiftyone_sample("c.jpg", label, "val", "validation"),
    ]
    path = save(tmp_path / "samples.json", {"samples": samples})
    with pytest.raises(DataError, match=r"b\.jpg has the tags test, train, .* 'dataset\.ignore=\[train\]'$"):
        read(path)
    listing = read(path, ignore=("train",))
    assert [entry.split for entry in listing.entries()] == [None, "test", "val"]
    assert "split by tags (test, val, validation)" in listing.decisions


@pytest.mark.parametrize("others", ["", "Train"])
def test_subsets_that_name_no_split_are_said(tmp_path: Path, others: str) -> None:
    subsets = [others, "Part 1", "Part 1", "default"]
    images = (f'<image name="{n}.jpg" subset="{name}"><tag label="a"/></image>' for n, name in enumerate(subsets))
    listing = read(save(tmp_path / "a.xml", f"<annotations>{''.join(images)}</annotations>"))
    assert "subsets that name no split, whose images are train: Part 1 with 2 images" in listing.decisions
    assert ("3 images without a split in train" in listing.decisions) == bool(others)


@pytest.mark.parametrize(
    "content",
    [
        [{"path": "a.jpg", "cat": 1, "dog": None}, {"path": "b.jpg", "cat": None, "dog": 1}],
        [{"path": "a.jpg", "cat": 1}, {"path": "b.jpg", "dog": True}],
        {"a.jpg": {"cat": 1, "dog": None}, "b.jpg": {"cat": None, "dog": 1}},
    ],
)
def test_keys_of_classes_without_any_zero_are_asked_for(tmp_path: Path, content: Any) -> None:
    path = save(tmp_path / "a.json", content)
    message = r"a\.json: the 2 class keys hold 1 and null or nothing but no 0 .*=absent or dataset\.minus_one=unknown"
    with pytest.raises(DataError, match=message):
        read(path)
    for setting, place in (("absent", 1), ("unknown", 2)):
        listing = read(path, minus_one=setting)
        assert joined_states(listing)["a.jpg"][place] == {"dog"}
        assert f"null of classes is {setting}, as no class has 0 or -1" in listing.decisions


@pytest.mark.parametrize("key", ["split", "subset", "Data Split"])
def test_label_studios_data_may_divide_the_images(tmp_path: Path, key: str) -> None:
    tasks = label_studio(*((f"{n}.jpg", [annotation(label_studio_result("choices", "Cat"))]) for n in "abc"))
    for task, split in zip(tasks, ("train", "valid", None), strict=True):
        task["data"] |= {"set": "garden"} | ({key: split} if split else {})
    listing = read(save(tmp_path / "a.json", tasks))
    assert [e.split for e in listing.entries()] == ["train", "val", None]
    assert {f"split by {key}", "1 image without a split in train"} <= set(listing.decisions)
    records = [{**task["data"], "id": 1, "choice": "Cat", "annotation_id": 1} for task in tasks]
    assert [e.split for e in read(save(tmp_path / "b.json", records)).entries()] == ["train", "val", None]
    ignored = read(tmp_path / "a.json", ignore=(key,))
    assert {e.split for e in ignored.entries()} == {None}


@pytest.mark.parametrize("kind", ["list", "label studio", "cvat", "fiftyone"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_images_without_a_split_are_train_where_others_name_one(tmp_path: Path, kind: str, split: str) -> None:
    paths = [f"{n}.jpg" for n in range(4)]
    touch(*(tmp_path / path for path in paths))
    marked: list[dict[str, str]] = [{"split": split}, {}, {}, {}]
    content: Any = [{"path": path, "labels": ["cat"], **mark} for path, mark in zip(paths, marked, strict=True)]
    if kind == "label studio":
        content = label_studio(*((path, [annotation(label_studio_result("choices", "Cat"))]) for path in paths))
        for task, mark in zip(content, marked, strict=True):
            task["data"] |= mark
    elif kind == "cvat":
        images = (
            f'<image name="{p}" subset="{m.get("split", "")}"><tag label="a"/></image>'
            for p, m in zip(paths, marked, strict=True)
        )
        content = f"<annotations>{''.join(images)}</annotations>"
    elif kind == "fiftyone":
        label = {"_cls": "Classification", "label": "cat"}
        content = [
            {"filepath": p, "tags": [*m.values()], "ground_truth": label} for p, m in zip(paths, marked, strict=True)
        ]
        content = {"samples": content}
    path = save(tmp_path / ("a.xml" if kind == "cvat" else "a.json"), content)
    assert "3 images without a split in train" in read(path).decisions
    config = table.TableConfig(name="table", train=str(path))
    assert config.own_splits == ("train", split)
    assert list(table.build_table(config, split="train").names()) == paths[1:]
    assert list(table.build_table(config, split=split).names()) == paths[:1]


def test_label_studios_predictions_are_labels_if_that_is_said(tmp_path: Path) -> None:
    tasks = label_studio(("a.jpg", [annotation(label_studio_result("choices", "Cat"))]), ("b.jpg", []))
    tasks[1]["predictions"].append({"model_version": "2", "result": [label_studio_result("choices", "Dog")]})
    path = save(tmp_path / "a.json", tasks)
    assert present(read(path)) == {"a.jpg": {"Cat"}}
    assert "1 task of these with predictions, which are no labels" in read(path).decisions
    predicted = read(path, label_column="predictions")
    assert present(predicted) == {"a.jpg": {"Wrong"}, "b.jpg": {"Wrong", "Dog"}}
    assert "1 task with more than one prediction: a label counts if any of them has it" in predicted.decisions
    save(path, [{"data": task["data"], "predictions": task["predictions"]} for task in tasks])
    with pytest.raises(DataError, match=r"none of its 2 tasks has .* read with dataset\.label_column=predictions$"):
        read(path)
    assert present(read(path, label_column="predictions")) == present(predicted)


@pytest.mark.parametrize("texts", [["A", "A", "B"], ["a cat " * 20], ["p", "q", "r", "s"]])
def test_label_studios_free_text_is_no_label_unless_that_is_said(tmp_path: Path, texts: list[str]) -> None:
    name = "answer" if len(texts) != 3 else "textarea"
    rows = [record(f"{n}.jpg", choice={"choices": ["Cat"]}, **{name: text}) for n, text in enumerate(texts)]
    path = save(tmp_path / "a.json", rows)
    with pytest.raises(DataError, match=rf"{name} may be free text or labels; use dataset.ignore=\[{name}\]"):
        read(path)
    assert set.union(*present(read(path, ignore=(name,))).values()) == {"Cat"}
    assert set.union(*present(read(path, ignore=())).values()) == {"Cat", *(text.strip() for text in texts)}


YES_NO = [("yes", "no"), ("no", "yes"), ("yes", "yes")]
LEFT_RIGHT = [("cat", "dog"), ("dog", "Cat"), ("cat", "fox")]


@pytest.mark.parametrize("values", [YES_NO, LEFT_RIGHT], ids=["answers", "shared"])
@pytest.mark.parametrize("minimal", [False, True])
def test_label_studios_controls_whose_values_overlap_are_a_choice(
    tmp_path: Path, values: list[tuple[str, str]], minimal: bool
) -> None:
    rows: list[Any] = [record(f"{n}.jpg", first=one, second={"choices": [two]}) for n, (one, two) in enumerate(values)]
    if not minimal:
        results = [
            [
                {**label_studio_result("choices", value), "from_name": name}
                for name, value in zip(("first", "second"), v, strict=True)
            ]
            for v in values
        ]
        rows = label_studio(*((f"{n}.jpg", [annotation(*result)]) for n, result in enumerate(results)))
    path = save(tmp_path / "a.json", rows)
    with pytest.raises(DataError, match=r"2 controls .* first \(.*\), second \(.*label_column=NAME") as caught:
        read(path)
    assert "dataset.ignore=[first,second]" in str(caught.value)
    for place, name in enumerate(("first", "second")):
        expected = {f"{n}.jpg": {both[place]} for n, both in enumerate(values)}
        assert present(read(path, label_column=name)) == expected
        assert present(read(path, ignore=(("second", "first")[place],))) == expected
    assert present(read(path, ignore=())) == {f"{n}.jpg": set(both) for n, both in enumerate(values)}
    with pytest.raises(DataError, match="label_column=third: labels are in first, second"):
        read(path, label_column="third")


def test_label_studio_cells() -> None:
    def labels(cell: str) -> list[str]:
        return list(dict.fromkeys(labels_of(cell, Separator(";"), "t.csv line 2")))

    assert labels('{"choices": ["Cat", "Dog"]}') == ["Cat", "Dog"]
    assert labels('[{"x": 1, "rectanglelabels": ["Car"]}, {"x": 2, "rectanglelabels": ["Car"]}]') == ["Car"]
    assert labels('{"taxonomy": [["Animal", "Cat"]]}') == ["Animal/Cat"]
    for other, plain in {"Cat": ["Cat"], "": [], "[1, 2]": ["1", "2"], '["Cat"]': ["Cat"]}.items():
        assert labels(other) == plain
    for broken in ('{"choices": ', '{"text": ["a"]}', '{"choices": [{}]}', "[" * 100_000):
        with pytest.raises(DataError, match=r"t\.csv line 2: "):
            labels(broken)


def test_roboflows_category_of_the_project_is_no_label(tmp_path: Path) -> None:
    content = coco("animals", "cat", "dog", a=["cat"])
    for category in content["categories"]:
        category["supercategory"] = "none" if category["name"] == "animals" else "animals"
    listing = read(save(tmp_path / "a.json", content))
    assert listing.labels == ("cat", "dog")
    assert listing.decisions == ("category animals, which stands for all others, left out",)


def test_via_options_stand_for_their_text_where_they_are_numbers(tmp_path: Path) -> None:
    listing = read(save(tmp_path / "via_project.json", VIA_PROJECT))
    assert present(listing) == {"a.jpg": {"dog"}, "b.jpg": set()}  # the free text of `note` is no label
    noted = read(save(tmp_path / "via_project.json", VIA_PROJECT), label_column="note")
    assert present(noted) == {"a.jpg": {"blurred"}, "b.jpg": set()}


def test_via_3(tmp_path: Path) -> None:
    listing = read(save(tmp_path / "via.json", VIA_3_PROJECT))
    assert listing.format == "VGG Image Annotator JSON"
    assert present(listing) == {"a.jpg": {"cat", "sun", "fog"}, "b.jpg": set()}
    assert present(read(tmp_path / "via.json", label_column="Class")) == {"a.jpg": {"cat"}, "b.jpg": set()}


def test_vias_csv_is_an_error_that_says_what_to_export(tmp_path: Path) -> None:
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    save(tmp_path / "via.csv", head + 'a.jpg,1,"{}",1,0,"{""name"":""rect""}","{""class"":""dog""}"\n')
    with pytest.raises(
        DataError, match=r"via\.csv: is CSV of the VGG .* export it as JSON there .* dataset=FILE\.json"
    ):
        table.read_table(table.TableConfig(name="table", train=str(tmp_path / "via.csv")), "train")


@pytest.mark.parametrize("key", ["category", "categories", "label"])
@pytest.mark.parametrize("names", [["cat", "dog", "dog"], [0, 1, 1]])
def test_hugging_faces_objects(tmp_path: Path, key: str, names: list[Any]) -> None:
    rows = [
        {"file_name": "a.jpg", "image_id": 7, "objects": {"bbox": [[1, 2, 3, 4]] * 3, key: names, "area": [1.5, 2, 2]}},
        {"file_name": "b.jpg", "image_id": 8, "objects": [{"bbox": [1, 2, 3, 4], key: names[0]}]},
    ]
    save(tmp_path / "train" / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    touch(tmp_path / "train" / "a.jpg", tmp_path / "train" / "b.jpg")
    found = locate(str(tmp_path))
    index = table.read_table(table.TableConfig(name=found.name, **found.settings), "train")  # type: ignore[arg-type]
    assert index.labels.names == tuple(map(str, names[:2]))
    assert [row.tolist() for row in index.positives] == [[0, 1], [0]]


# ---------------------------------------------------------------- folders


def voc(name: str, *objects: tuple[str, int]) -> str:
    """As Roboflow writes it."""
    body = "".join(
        f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
        "<occluded>0</occluded><bndbox><xmin>1</xmin><xmax>2</xmax><ymin>1</ymin><ymax>2</ymax></bndbox></object>"
        for label, difficult in objects
    )
    return (
        f"<annotation><folder></folder><filename>{name}</filename><path>{name}</path><source><database>roboflow.com"
        f"</database></source><size><width>4</width><height>3</height><depth>3</depth></size>{body}</annotation>"
    )


def folders(listing: Listing) -> dict[str, str]:
    """{path: folder relative to the listing's}."""
    return {e.path: str(Path(e.folder or listing.folder).relative_to(listing.folder)) for e in listing.entries()}


def test_roboflow_coco_has_a_file_for_each_split(tmp_path: Path) -> None:
    for split, image in (("train", "a"), ("valid", "b"), ("test", "c")):
        content = coco("cat", "dog", **{image: ["dog"]})
        content["images"][0]["file_name"] = f"{image}.jpg"
        save(tmp_path / split / "_annotations.coco.json", content)
        touch(tmp_path / split / f"{image}.jpg")
    listing = read(tmp_path)
    assert listing.labels == ("cat", "dog")
    assert joined_states(listing) == {
        f"{n}.jpg": ({"dog"}, set(), set(), s) for n, s in (("a", "train"), ("b", "val"), ("c", "test"))
    }
    assert folders(listing) == {"a.jpg": "train", "b.jpg": "valid", "c.jpg": "test"}
    assert len(listing.files) == 3
    lone = read(tmp_path / "train" / "_annotations.coco.json")
    assert [e.split for e in lone.entries()] == [None]


def test_coco_in_annotations_with_images_in_folders_of_their_own(tmp_path: Path) -> None:
    for split in ("train", "val"):
        content = coco("cat", a=["cat"])
        content["images"][0]["file_name"] = "a.jpg"
        save(tmp_path / "annotations" / f"instances_{split}2017.json", content)
        save(tmp_path / "annotations" / f"person_keypoints_{split}2017.json", coco("person", a=["person"]))
        touch(tmp_path / "images" / f"{split}2017" / "a.jpg")
    listing = read(tmp_path)
    assert [(e.split, e.present, Path(e.folder or "").name) for e in listing.entries()] == [
        ("train", ("cat",), "train2017"),
        ("val", ("cat",), "val2017"),
    ]
    lone = read(tmp_path / "annotations" / "instances_val2017.json")
    assert lone.folder == str(tmp_path)
    assert folders(lone) == {"a.jpg": "images/val2017"}


@pytest.mark.parametrize("given", [".", "train.json"])
def test_datumaro_and_fiftyone_folders(tmp_path: Path, given: str) -> None:
    touch(tmp_path / "dm" / "images" / "train" / "a.jpg")
    path = save(tmp_path / "dm" / "annotations" / "train.json", DATUMARO)
    listing = read(tmp_path / "dm" if given == "." else path)
    assert folders(listing) == {"a.jpg": "images/train", "b.jpg": "images/train"}
    assert {e.split for e in listing.entries()} == ({"train"} if given == "." else {None})
    touch(tmp_path / "fo" / "data" / "a.jpg")
    path = save(tmp_path / "fo" / "labels.json", {"classes": None, "labels": {"a": "cat"}})
    listing = read(tmp_path / "fo" if given == "." else path)
    assert folders(listing) == {"a": "data"}


def test_roboflow_voc_has_xml_beside_the_images_of_each_split(tmp_path: Path) -> None:
    for split, name in (("train", "a b_jpg.rf.1"), ("valid", "b.rf.2")):
        touch(tmp_path / split / f"{name}.jpg")
        save(tmp_path / split / f"{name}.xml", voc(f"{name}.jpg", ("helmet", 0), ("vest", 1), ("helmet", 1)))
    touch(tmp_path / "train" / "alone.png")
    listing = read(tmp_path)
    assert listing.format == "Pascal VOC XML"
    assert joined_states(listing) == {
        "a b_jpg.rf.1.jpg": ({"helmet"}, set(), {"vest"}, "train"),
        "b.rf.2.jpg": ({"helmet"}, set(), {"vest"}, "val"),
    }
    assert set(folders(listing).values()) == {"train", "valid"}
    assert "train: 1 image without an XML file left out" in listing.decisions
    assert read(tmp_path / "train").source == str(tmp_path / "train")


@pytest.mark.parametrize("below", ["", "VOC2007", "VOCdevkit/VOC2012"])
def test_vocs_tree_with_classes_of_ones_own(tmp_path: Path, below: str) -> None:
    folder = tmp_path / below
    for name, suffix in (("IMG 01-a", ".png"), ("p02", ".jpg"), ("p03", ".jpg")):
        save(folder / "Annotations" / f"{name}.xml", voc("renamed.jpg", (name[:2], 0)))
        touch(folder / "JPEGImages" / f"{name}{suffix}")
    assert {e.split for e in read(tmp_path).entries()} == {None}
    save(folder / "ImageSets" / "Main" / "trainval.txt", "IMG 01-a\np02  1\n")
    save(folder / "ImageSets" / "Main" / "test.txt", "p03\n")
    expected = {"IMG 01-a.png": ({"IM"}, "train"), "p02.jpg": ({"p0"}, "train"), "p03.jpg": ({"p0"}, "test")}
    assert {path: (s[0], s[3]) for path, s in joined_states(read(tmp_path)).items()} == expected
    save(folder / "ImageSets" / "Main" / "train.txt", "p02\n")
    save(folder / "ImageSets" / "Main" / "val.txt", "IMG 01-a\n")
    assert {path: s[3] for path, s in joined_states(read(tmp_path)).items()} == {
        "p02.jpg": "train",
        "IMG 01-a.png": "val",
        "p03.jpg": "test",
    }
    assert {path: s[3] for path, s in joined_states(read(folder / "Annotations")).items()} == {
        "p02.jpg": None,
        "IMG 01-a.png": None,
        "p03.jpg": None,
    }


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("images", "Annotations"),
        ("images", "annotations/xmls"),  # the Oxford pets
        ("Images", "Annotation"),
        (".", "Annotations"),
        ("images/sub", "Annotations/sub"),
        ("train/images", "train/annotations"),
        ("images/train", "Annotations/train"),
    ],
)
def test_vocs_xml_in_other_folders(tmp_path: Path, images: str, annotations: str) -> None:
    for name in "ab":
        touch(tmp_path / images / f"{name}.png")
        save(tmp_path / annotations / f"{name}.xml", voc(f"{name}.png", (name, 0)))
    listing = read(tmp_path)
    assert present(listing) == {"a.png": {"a"}, "b.png": {"b"}}
    assert set(folders(listing).values()) == {images}
    assert locate(str(tmp_path)).settings == {"train": str(tmp_path)}
    with pytest.raises(DataError, match=rf"describes one image, as Pascal VOC does; use the folder: .*{annotations}$"):
        recognise(str(tmp_path / annotations / "a.xml"))


DARKNET = {"a": "0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n", "b": "1 0.5 0.5 0.1 0.1\n", "c": ""}


@pytest.mark.parametrize(
    ("folder", "before", "files"),
    [
        (
            "data/obj",
            "data/obj/",
            {
                "data/obj.data": "train  = data/train.txt\nvalid = data/test.txt\nnames = data/obj.names\n",
                "data/obj.names": "cat\ndog\n",
                "data/train.txt": "ab",
                "data/test.txt": "c",
            },
        ),
        (  # CVAT's YOLO 1.1
            "obj_train_data",
            "data/obj_train_data/",
            {
                "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n",
                "obj.names": "cat\ndog\n",
                "train.txt": "ab",
                "valid.txt": "c",
            },
        ),
        ("images", "/home/me/darknet/images/", {"obj.names": "cat\ndog\n", "train.txt": "ab", "valid.txt": "c"}),
    ],
)
def test_darknets_lists(tmp_path: Path, folder: str, before: str, files: dict[str, str]) -> None:
    for name, lines in DARKNET.items():
        touch(tmp_path / folder / f"{name}.jpg")
        save(tmp_path / folder.replace("images", "labels") / f"{name}.txt", lines)
    for file, text in files.items():
        is_list = file.endswith(".txt")
        save(tmp_path / file, "".join(f"{before}{name}.jpg\n" for name in text) if is_list else text)
    found = locate(str(tmp_path))
    config = table.TableConfig(name=found.name, **found.settings)  # type: ignore[arg-type]
    assert (found.format, config.splits) == ("Darknet YOLO", ("train", "val"))
    train, val = (table.read_table(config, split) for split in config.splits)
    assert train.labels.names == val.labels.names == ("cat", "dog")
    assert [row.tolist() for row in (*train.positives, *val.positives)] == [[0, 1], [1], []]
    assert [Path(train.path(row)) for row in (0, 1)] == [tmp_path / folder / f"{name}.jpg" for name in "ab"]


def test_lists_with_labels_beside_names_are_tables(tmp_path: Path) -> None:
    save(tmp_path / "obj.names", "cat\ndog\n")
    save(tmp_path / "train.txt", "a.jpg 0 1\nb.jpg 1\n")
    assert locate(str(tmp_path)).settings == {"train": str(tmp_path / "train.txt")}


def test_roboflows_darknet(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("valid", "b")):
        touch(tmp_path / split / f"{name}.jpg")
        save(tmp_path / split / f"{name}.txt", DARKNET[name])
        save(tmp_path / split / "_darknet.labels", "cat\ndog\n")
    settings = locate(str(tmp_path)).settings
    listing = read(Path(settings.pop("train")), **settings)
    assert {path: (s[0], s[3]) for path, s in joined_states(listing).items()} == {
        "train/a.jpg": ({"cat", "dog"}, "train"),
        "valid/b.jpg": ({"dog"}, "val"),
    }
    assert present(read(tmp_path / "train" / "_darknet.labels")) == {"a.jpg": {"cat", "dog"}}


@pytest.mark.parametrize(
    "text", ["", "train = train.txt\n", "names = ../../etc/passwd\ntrain = t\n", "names = obj.names\nbackup = x\n"]
)
def test_darknets_file_without_lists_or_names_is_an_error(tmp_path: Path, text: str) -> None:
    save(tmp_path / "obj.names", "cat\n")
    with pytest.raises(DataError, match=r"obj\.data: names no list of images, or no file of names that lies below"):
        recognise(str(save(tmp_path / "obj.data", text)))


def test_paddledetections_lists_of_images_and_xml(tmp_path: Path) -> None:
    for name in ("a b", "c"):
        save(tmp_path / "annotations" / f"{name}.xml", voc(f"{name}.png", (name, 0)))
        touch(tmp_path / "images" / f"{name}.png")
    save(tmp_path / "train.txt", "images/a b.png annotations/a b.xml\n")
    save(tmp_path / "valid.txt", "./images/c.png ./annotations/c.xml\n")
    save(tmp_path / "label_list.txt", "a b\nc\n")
    assert {path: (s[0], s[3]) for path, s in joined_states(read(tmp_path)).items()} == {
        "a b.png": ({"a b"}, "train"),
        "c.png": ({"c"}, "val"),
    }


def yolo(folder: Path, text: str, images: dict[str, str | None]) -> Path:
    """A dataset of ultralytics: {path of an image: its labels}, None for an image without a file of labels."""
    for path, lines in images.items():
        touch(folder / path)
        if lines is not None:
            save((folder / path.replace("images/", "labels/")).with_suffix(".txt"), lines)
    return save(folder / "data.yaml", text)


BOXES = {
    "images/train/a.jpg": "1 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n",
    "images/train/deep/b.jpg": "0 0.1 0.1 0.2 0.2 0.3 0.1\n",
    "images/val/c.png": "",
    "images/val/d.png": None,
}
SEEN = {
    "images/train/a.jpg": ({"no"}, set(), set(), "train"),
    "images/train/deep/b.jpg": ({"1e3"}, set(), set(), "train"),
    "images/val/c.png": (set(), set(), set(), "val"),
    "images/val/d.png": (set(), set(), set(), "val"),
}


@pytest.mark.parametrize(
    "text",
    [
        "path: .\ntrain: images/train\nval: images/val\ntest:\nnames:\n  0: 1e3\n  1: no\n",
        "path: ../datasets/mine\ntrain: [images/train]\nval: ../images/val\nnc: 2\nnames: [1e3, 'no']\n",
        "path: C:\\work\\mine\ntrain: /content/mine/images/train\nval: lists/val.txt\nnames: ['1e3', no]\n",
    ],
)
def test_data_yaml_of_ultralytics(tmp_path: Path, text: str) -> None:
    save(tmp_path / "lists" / "val.txt", "./../images/val/c.png\nimages/val/d.png\n")
    path = yolo(tmp_path, text, BOXES)
    for listing in (read(path), read(tmp_path)):
        assert listing.format == "Ultralytics YOLO"
        assert listing.labels == ("1e3", "no")
        assert joined_states(listing) == SEEN
        assert "no file of labels, so no label, for 1 image" in listing.decisions
        assert str(tmp_path / "labels" / "train" / "a.txt") in listing.files


def test_roboflow_yolo(tmp_path: Path) -> None:
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['cat']\n"
    images = {"train/images/a.jpg": "0 0.5 0.5 0.1 0.1", "valid/images/b.jpg": "0 0.5 0.5 0.1 0.1"}
    listing = read(yolo(tmp_path, text, images))
    assert {path: (s[0], s[3]) for path, s in joined_states(listing).items()} == {
        "train/images/a.jpg": ({"cat"}, "train"),
        "valid/images/b.jpg": ({"cat"}, "val"),
    }
    assert "test: ../test/images does not exist, left out" in listing.decisions


def test_val_that_is_train_is_left_out(tmp_path: Path) -> None:
    listing = read(yolo(tmp_path, "train: images/train\nval: images/train\nnc: 2\n", BOXES))
    assert {e.split for e in listing.entries()} == {"train"}
    assert listing.labels == ("class_0", "class_1")


def test_label_studios_yolo(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.jpg")
    save(tmp_path / "labels" / "a.txt", "1 0.5 0.5 0.1 0.1")
    save(tmp_path / "classes.txt", "cat\ndog\n")
    save(tmp_path / "notes.json", {"categories": [{"id": 0, "name": "cat"}], "info": {"version": "1.0"}})
    assert present(read(tmp_path)) == {"images/a.jpg": {"dog"}}


def test_a_list_of_images_within_an_object(tmp_path: Path) -> None:
    rows = [{"path": "a.jpg", "labels": ["cat", "dog"]}, {"path": "b.jpg", "labels": []}]
    file = save(tmp_path / "mine.json", {"version": 1, "info": {"by": "me"}, "images": rows})
    assert present(read(file)) == {"a.jpg": {"cat", "dog"}, "b.jpg": set()}
    for other in ({"more": rows}, {"classes": ["cat", "dog"]}):
        assert recognise(str(save(tmp_path / "mine.json", {"images": rows} | other))) is None


def test_an_export_in_the_only_folder_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mldec")
    inner = tmp_path / "My Project.v1i"
    for split in ("train", "valid"):
        touch(inner / split / "a.jpg")
        save(inner / split / "_classes.csv", "filename, cat\na.jpg, 1\n")
    save(tmp_path / "__MACOSX" / "._x", "")
    assert locate(str(tmp_path)).settings["val"] == str(inner / "valid" / "_classes.csv")
    assert "read from its only folder, My Project.v1i" in caplog.text
    other = tmp_path / "other"
    (other / "a" / "deep").mkdir(parents=True)
    (other / "a" / "deep" / "loop").symlink_to(other, target_is_directory=True)
    with pytest.raises(DataError, match="no dataset is recognised"):
        locate(str(other))


def test_the_folder_beside_a_table_holds_its_images(tmp_path: Path) -> None:
    touch(tmp_path / "photos" / "a.jpg")
    table = save(tmp_path / "labels.csv", "path,labels\na.jpg,cat\n")
    assert locate(str(tmp_path)).settings == {"train": str(table)}
    touch(tmp_path / "more" / "b.jpg")
    with pytest.raises(DataError, match=r"may be read in several ways.*2 class folders"):
        locate(str(tmp_path))


@pytest.mark.parametrize(("images", "labels"), [("", ""), ("images/", "labels/")])
def test_labelimgs_yolo(tmp_path: Path, images: str, labels: str) -> None:
    for name, text in (("a", "1 0.5 0.5 0.25 0.1\n0 0.2 0.2 0.1 0.1\n"), ("b", "0 0.5 0.5 0.1 0.1\n"), ("c", "")):
        touch(tmp_path / f"{images}{name}.jpg")
        save(tmp_path / f"{labels}{name}.txt", text)
    assert recognise(str(tmp_path)) is None
    save(tmp_path / f"{labels}classes.txt", "cat\ndog\n")
    assert {Path(path).name: names for path, names in present(read(tmp_path)).items()} == {
        "a.jpg": {"cat", "dog"},
        "b.jpg": {"cat"},
        "c.jpg": set(),
    }
    touch(tmp_path / images / "run/config.yaml", tmp_path / images / "run/checkpoints/x")
    touch(tmp_path / images / "run/metrics.jsonl", tmp_path / images / "run/images/predictions.png")
    assert len(present(read(tmp_path))) == 3  # what a run writes is no image
    for name in "abc":  # captions are no boxes
        save(tmp_path / f"{labels}{name}.txt", "a cat and a dog\n")
    if not labels:
        assert recognise(str(tmp_path)) is None


def test_tables_of_a_folder(tmp_path: Path) -> None:
    def table_files(folder: str) -> dict[str, str]:
        return locate(folder).settings

    with pytest.raises(DataError, match="no dataset is recognised"):
        table_files(str(tmp_path))
    for split in ("train", "valid", "test"):
        save(tmp_path / "r" / split / "_classes.csv", "filename, cat\n")
    assert table_files(str(tmp_path / "r")) == {
        key: str(tmp_path / "r" / name / "_classes.csv")
        for key, name in (("train", "train"), ("val", "valid"), ("test", "test"))
    }
    save(tmp_path / "h" / "train" / "metadata.jsonl", "{}\n")
    save(tmp_path / "h" / "validation" / "metadata.csv", "file_name\n")
    assert list(table_files(str(tmp_path / "h"))) == ["train", "val"]
    for name in ("train.csv", "val.csv", "other.csv"):
        save(tmp_path / "t" / name, "path,labels\n")
    assert list(table_files(str(tmp_path / "t"))) == ["train", "val"]
    save(tmp_path / "t" / "train" / "metadata.csv", "file_name\n")
    with pytest.raises(DataError, match=r"may be its train; use dataset=table dataset\.train=.* or dataset\.train="):
        table_files(str(tmp_path / "t"))


def test_what_is_none_of_the_formats_is_left_to_others(tmp_path: Path) -> None:
    touch(tmp_path / "cat" / "a.jpg", tmp_path / "dog" / "b.jpg", tmp_path / "a.csv", tmp_path / "a.jpg")
    save(tmp_path / "package.json", {"name": "x", "labels": ["a"]})
    save(tmp_path / "compose.yaml", "a: &a [1]\nb: *a\n")
    save(tmp_path / "broken.json", "{")
    for path in (tmp_path, tmp_path / "cat", tmp_path / "a.csv", tmp_path / "a.jpg", tmp_path / "package.json"):
        assert recognise(str(path)) is None


def test_several_lists_in_a_folder_are_a_choice(tmp_path: Path) -> None:
    yolo(tmp_path, "train: images/train\nval: images/val\nnc: 2\n", BOXES)
    save(tmp_path / "all.json", coco("cat", a=["cat"]))
    with pytest.raises(DataError, match=r"use dataset=\S+all.json \(COCO JSON\) or dataset=\S+data.yaml \(Ultral"):
        recognise(str(tmp_path))
    (tmp_path / "data.yaml").unlink()
    save(tmp_path / "old.json", coco("cat", a=["cat"]))
    with pytest.raises(DataError, match=r"use dataset=\S+all.json \(COCO JSON\) or dataset=\S+old.json \(COCO JSON\)"):
        recognise(str(tmp_path))


def test_an_export_is_read_once_and_again_where_a_file_of_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yolo(tmp_path, "train: images/train\nval: images/val\nnames: [cat, dog]\n", BOXES)
    reads: list[str] = []
    monkeypatch.setattr(table, "recognise", lambda path, **more: (reads.append(path), recognise(path, **more))[1])
    config = table.TableConfig(name="table", train=str(tmp_path), missing="ignore")
    assert config.splits == ("train", "val")
    before = {split: table.read_table(config, split) for split in config.splits}
    assert len(reads) == 1
    label = next((tmp_path / "labels" / "train").glob("*.txt"))
    label.write_text("1 0.5 0.5 0.1 0.1\n" * 3)
    after = table.read_table(config, "train")
    assert len(reads) == 2
    row = list(after.names()).index(f"images/train/{label.stem}.jpg")
    assert after.positives[row].tolist() == [1]
    assert len(before["train"]) == len(after)


def test_cocos_categories_of_one_name_and_files_listed_twice_are_said(tmp_path: Path) -> None:
    content = coco("cat", "dog", "cat", a=["cat"], b=["dog"], c=[])
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    listing = read(save(tmp_path / "a.json", content))
    assert listing.labels == ("cat", "dog")
    assert present(listing) == {"sub\\a.jpg": {"cat", "dog"}, "sub\\c.jpg": set()}
    assert "classes of one name are one label (cat)" in listing.decisions
    assert "1 image listed more than once, with the labels of all entries (sub\\a.jpg)" in listing.decisions


def test_classes_of_the_same_name_are_one_label(tmp_path: Path) -> None:
    boxes = {f"images/{name}.jpg": f"{number} .5 .5 .1 .1\n" for number, name in enumerate("abcde")}
    yolo(tmp_path, "train: images\nnames: [cat, dog, cat, bird, owl]\n", boxes)
    index = table.read_table(table.TableConfig(name="table", train=str(tmp_path), missing="ignore"), "train")
    assert index.labels.names == ("cat", "dog", "bird", "owl")
    found = {name: [index.labels.names[c] for c in index.positives[row]] for row, name in enumerate(index.names())}
    names = zip("abcde", ["cat", "dog", "cat", "bird", "owl"], strict=True)
    assert found == {f"images/{name}.jpg": [label] for name, label in names}
