"""Properties: the same content gives the same index in any dialect, encoding, order and notation; what could be read in
two ways is one error whose options read it."""

import csv
import io
import itertools
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mldec.data.index import ImageIndex
from mldec.data.own import arrow_rows, image_files, label_cells, values
from mldec.data.own.columns import Chosen, find_columns
from mldec.data.table import TableConfig, build_table, read_table, read_whole
from mldec.errors import DataError
from tests.tables import build as build_file
from tests.tables import touch

CONTENT = [
    ("p1.jpg", ["Käse", "Brot"]),
    ("sub/p2.jpg", ["Brot"]),
    ("p3.jpg", []),
    ("p4.jpg", ["Apfel", "Brot", "Käse"]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path, *(name for name, _ in CONTENT))
    return tmp_path


def build(folder: Path, content: str | bytes, name: str = "t.csv", split: str = "train", **settings: Any) -> ImageIndex:
    return build_file(folder, name, content, split, **settings)


def content_of(index: ImageIndex) -> dict[str, set[str]]:
    names = index.labels.names
    return {name: {names[c] for c in index.positives[row].tolist()} for row, name in enumerate(index.names())}


EXPECTED = {name: set(labels) for name, labels in CONTENT}


def refused(folder: Path, content: str | bytes, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        build(folder, content, **settings)
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def options_in(message: str) -> list[dict[str, str]]:
    """The settings that a message offers."""
    found = re.findall(r"dataset\.(\w+)=([\w+.]+)", message)
    return [{key: value.rstrip(".")} for key, value in found]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("seed", range(2))
def test_dialects_encodings_and_orders_say_the_same(folder: Path, delimiter: str, encoding: str, seed: int) -> None:
    rng = random.Random(seed)
    columns = ["path", "labels", "note"]
    rng.shuffle(columns)
    rows = [
        dict(zip(("path", "labels", "note"), (name, ";".join(labels), "a, b"), strict=True)) for name, labels in CONTENT
    ]
    rng.shuffle(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writeheader()
    writer.writerows(rows)
    index = build(folder, text.getvalue().encode(encoding))
    assert index.labels.names == ("Apfel", "Brot", "Käse")
    assert content_of(index) == EXPECTED
    assert list(index.names()) == [row["path"] for row in rows]


@pytest.mark.parametrize("before", ["", "sep=;\r\n", "# made by hand\n# in 2026\n", "\n\n"])
@pytest.mark.parametrize("after", ["", ";\n;;\n", "\n\n"])
def test_what_stands_around_a_table_is_left_out(folder: Path, before: str, after: str) -> None:
    rows = "".join(f'{name}; "{";".join(labels)}";;\n' for name, labels in CONTENT)
    assert content_of(build(folder, f"{before}Image Index;Finding Labels;;\n{rows}{after}")) == EXPECTED


def test_comments_between_rows_are_left_out_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mldec")
    text = 'path,labels\n# from here by Eva, in "May\np1.jpg,cat\n#p2.jpg,dog\np3.jpg,"a #b\n"\n#\n# 3 rows\n'
    index = build(folder, text, separator="none")
    assert content_of(index) == {"p1.jpg": {"cat"}, "p3.jpg": {"a #b"}}
    assert "left out 4 lines that begin with # (first: line 2)" in caplog.text
    tags = "tag,path\n#sun,p1.jpg\n#sea,p3.jpg\n"
    assert content_of(build(folder, tags)) == {"p1.jpg": {"#sun"}, "p3.jpg": {"#sea"}}
    with pytest.raises(DataError, match=r"t\.csv line 4: 3 cells"):
        build(folder, "path,labels\n# c\np1.jpg,cat\np3.jpg,cat,dog\n")


@pytest.mark.parametrize("sign", [";", ",", "|", "/", " ", ", ", "; "])
def test_the_sign_between_labels_is_found(folder: Path, sign: str) -> None:
    rows = [("p1.jpg", "cat"), ("sub/p2.jpg", "dog"), ("p3.jpg", f"dog{sign}cat"), ("p4.jpg", "")]
    text = "".join(f'{name},"{labels}"\n' for name, labels in rows)
    index = build(folder, "path,labels\n" + text)
    assert index.labels.names == ("cat", "dog")
    assert content_of(index)["p3.jpg"] == {"cat", "dog"}


LISTS = {
    "json": '["cat", "hot dog"]',
    "python": "['cat', 'hot dog']",
    "tuple": "('cat', 'hot dog')",
    "numpy": "array(['cat', 'hot dog'], dtype=object)",
    "numpy-str": "['cat' 'hot dog']",
    "label studio": '{"choices": ["cat", "hot dog"]}',
    "bare": "[cat, hot dog]",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_in_cells(folder: Path, name: str) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("path", "labels"), ("p1.jpg", LISTS[name]), ("p3.jpg", "[]"), ("p4.jpg", "hot dog")])
    index = build(folder, text.getvalue())
    assert content_of(index) == {"p1.jpg": {"cat", "hot dog"}, "p3.jpg": set(), "p4.jpg": {"hot dog"}}


def test_a_list_that_is_code_is_not_run(folder: Path) -> None:
    assert "no JSON list" in refused(folder, "path,labels\np1.jpg,\"[__import__('os').getcwd()]\"\n")


def test_names_with_spaces_stay_whole(folder: Path) -> None:
    rows = ["p1.jpg,traffic light", "sub/p2.jpg,dining table", "p3.jpg,cat", "p4.jpg,traffic light"]
    assert build(folder, "path,labels\n" + "\n".join(rows)).labels.names == ("cat", "dining table", "traffic light")
    rows = ["p1.jpg,traffic light;cat", "sub/p2.jpg,dining table", "p3.jpg,cat;hot dog", "p4.jpg,dog"]
    assert "hot dog" in build(folder, "path,labels\n" + "\n".join(rows)).labels.names


@pytest.mark.parametrize(
    "rows",
    [
        ['p1.jpg,"Washington, DC"', 'p3.jpg,"Seattle, WA"'],
        ["p1.jpg,cat;dog", "p3.jpg,cat|bird"],
        ["p1.jpg,cat;dog", 'p3.jpg,"cat,dog"'],
        ["p1.jpg,hot dog", "p3.jpg,dog"],
        ["p1.jpg,cat;dog", 'p3.jpg,"cat,dgo"'],
        ['p1.jpg,"[""cat,dog""]"', 'p3.jpg,"[""cat"", ""dog""]"'],
        ['p1.jpg,"[""cat,dgo""]"', 'p3.jpg,"[""cat""]"'],
        ['p1.jpg,"[""cat,dog""]"', 'p3.jpg,"[""dog,cat""]"'],
        ['p1.jpg,"[""cat""]"', 'p3.jpg,"cat,dgo"'],
        ["p1.jpg,cat dog;cat;dog;traffic light;wine glass", "p3.jpg,cat"],
    ],
)
def test_what_may_be_joined_is_one_error_whose_options_work(folder: Path, rows: list[str]) -> None:
    text = "path,labels\n" + "\n".join(rows) + "\n"
    message = refused(folder, text)
    assert "line " in message
    offered = options_in(message)
    assert len(offered) >= 2
    for settings in offered:
        assert len(build(folder, text, **settings)) == 2


def test_spaces_that_belong_to_most_names_may_still_join_two(folder: Path) -> None:
    touch(folder, *(f"n{number}.jpg" for number in range(8)))
    names = ["cat", "dog", "cat dog", "traffic light", "dining table", "teddy bear", "wine glass", "hot meal"]
    text = "path,labels\n" + "".join(f"n{number}.jpg,{name}\n" for number, name in enumerate(names))
    assert "line 4: 'cat dog' may be several labels or one" in refused(folder, text)
    assert build(folder, text, separator="none").labels.names == tuple(sorted(names))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'path,labels\np1.jpg,"[""cat""]"\np3.jpg,cat;dog\n'),
        ("t.jsonl", '{"path": "p1.jpg", "labels": ["cat"]}\n{"path": "p3.jpg", "labels": "cat;dog"}\n'),
        ("t.json", '[{"path": "p1.jpg", "labels": ["cat"]}, {"path": "p3.jpg", "labels": "cat;dog"}]'),
        ("t.json", '{"p1.jpg": ["cat"], "p3.jpg": "cat;dog"}'),
    ],
)
def test_what_stands_beside_lists_is_separated_too(folder: Path, name: str, content: str) -> None:
    assert content_of(build(folder, content, name)) == {"p1.jpg": {"cat"}, "p3.jpg": {"cat", "dog"}}


@pytest.mark.parametrize("separator", ["comma", "none"])
@pytest.mark.parametrize(
    "content",
    ['[{"path": "p1.jpg", "labels": ["cat,dog"]}, {"path": "p3.jpg", "labels": "cat"}]', '{"p1.jpg": ["a,b", "a"]}'],
)
def test_joined_names_in_lists_of_json_are_asked_about(folder: Path, content: str, separator: str) -> None:
    with pytest.raises(DataError, match=r"may be several labels or one; use dataset.separator=comma or dataset.sepa"):
        build(folder, content, "t.json")
    assert len(build(folder, content, "t.json", separator=separator).labels) == 2


def test_cells_without_a_label(folder: Path) -> None:
    cells = ["nan", "NaN", "None", "NA", "null", "<NA>", ""]
    touch(folder, *(f"n{number}.jpg" for number in range(len(cells))))
    rows = "".join(f"n{number}.jpg,{cell}\n" for number, cell in enumerate(cells))
    index = build(folder, f"path,labels\np1.jpg,cat\n{rows}")
    assert index.labels.names == ("cat",)
    index = build(folder, f"path,cat,dog\np1.jpg,1,0\np3.jpg,0,1\n{rows.replace(',', ',0,')}")
    assert index.targets(range(len(index)))[2:].tolist() == [[0, -1]] * len(cells)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'path,labels\np1.jpg,"[""cat"", ""nan""]"\np3.jpg,"[None]"\np4.jpg,NA\n'),
        (
            "t.jsonl",
            "".join(f'{{"path": "p{n}.jpg", "labels": {v}}}\n' for n, v in ((1, '["cat", null]'), (3, '["NA"]'))),
        ),
        ("n.jsonl", '{"path": "p1.jpg", "labels": ["cat"]}\n{"path": "p3.jpg", "labels": null}\n'),
    ],
)
def test_nothing_in_lists_is_no_label(folder: Path, name: str, content: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert content_of(build(folder, content, name))["p1.jpg"] == {"cat"}
    assert re.search(r"\d cells? with nan, None, NA or null, which (is no label|are no labels)", caplog.text)
    (folder / "names.txt").write_text("cat\nNA\nnan\n")
    if name == "t.jsonl":
        assert content_of(build(folder, content, name, labels=str(folder / "names.txt")))["p3.jpg"] == {"NA"}
    text = "path,labels\np1.jpg,cat;None\n"
    assert content_of(build(folder, text, labels=str(folder / "names.txt")))["p1.jpg"] == {"cat"}


def test_a_class_column_of_1_and_minus_1_is_for_the_user_to_decide(folder: Path) -> None:
    text = "path,cat,dog\np1.jpg,1,-1\np3.jpg,-1,1\n"
    message = refused(folder, text)
    for settings, expected in zip(options_in(message), (0, -1), strict=True):
        assert build(folder, text, **settings).targets([0]).tolist() == [[1, expected]]


def test_columns_that_are_no_classes_are_named_together(folder: Path) -> None:
    text = "path,cat,who,dog,size_m\np1.jpg,1,me,0,3.5\np3.jpg,0,you,1,2\n"
    message = refused(folder, text)
    assert "dataset.ignore=[who,size_m]" in message
    assert build(folder, text, ignore=("who", "size_m")).labels.names == ("cat", "dog")
    known = build(folder, "Unnamed: 0,path,cat,age,dog,fold\n0,p1.jpg,1,37,0,3\n1,p3.jpg,0,40,1,4\n")
    assert known.labels.names == ("cat", "dog")
    message = refused(folder, "path,cat,sex\np1.jpg,1,0\np3.jpg,0,1\n")
    assert "dataset.ignore=[sex]" in message
    assert "dataset.ignore=[]" in message


@pytest.mark.parametrize(
    "name", ["path", "Image", "file_name", "Image Index", "image_id", "ImageID", "filename", "Id", "IMG_PATH"]
)
def test_names_of_the_path_column(folder: Path, name: str) -> None:
    assert list(build(folder, f"{name},tags\np1.jpg,cat\n").names()) == ["p1.jpg"]


def test_a_table_without_header_loses_no_row(folder: Path) -> None:
    assert content_of(build(folder, "p1.jpg,cat;dog\np3.jpg,\n")) == {"p1.jpg": {"cat", "dog"}, "p3.jpg": set()}
    index = build(folder, "train,p1.jpg,cat,dog\nval,p3.jpg,dog\n")
    assert content_of(index) == {"p1.jpg": {"cat", "dog"}}
    assert list(build(folder, "path,labels\np1.jpg,cat\n", header=True).names()) == ["p1.jpg"]


def test_rows_of_an_image_are_joined(folder: Path) -> None:
    index = build(folder, "path,label\np1.jpg,cat\np3.jpg,dog\n./p1.jpg,dog\np1.jpg,cat\n")
    assert content_of(index) == {"p1.jpg": {"cat", "dog"}, "p3.jpg": {"dog"}}
    whole, images = read_whole(TableConfig(name="table", train=str(folder / "t.csv")))
    assert images.tolist() == [0, 1, 0, 0]
    assert len(whole) == 2
    index = build(
        folder, "filename,width,height,class,xmin,ymin,xmax,ymax\np1.jpg,9,9,cat,1,1,2,2\np1.jpg,9,9,dog,1,1,2,2\n"
    )
    assert content_of(index) == {"p1.jpg": {"cat", "dog"}}


@pytest.mark.parametrize(
    ("control", "cells"),
    [
        ("choice", ['{""choices"": [""cat"", ""dog""]}', "cat"]),
        ("animal", ['{""choices"": [""cat"", ""dog""]}', "cat"]),
        ("label", ['[{""x"": 1, ""rectanglelabels"": [""cat""]}, {""rectanglelabels"": [""dog""]}]', "cat"]),
    ],
)
def test_label_studios_csv(folder: Path, control: str, cells: list[str]) -> None:
    times = '"2026-01-02T10:00:00Z","2026-01-02T10:00:00Z",3.5'
    rows = [
        f'/data/upload/1/1a2b3c4d-{name},{number},"{cell}",nice,1,{number},{times}\n'
        for number, (name, cell) in enumerate(zip(("p1.jpg", "p3.jpg"), cells, strict=True), start=1)
    ]
    head = f"image,id,{control},comment,annotator,annotation_id,created_at,updated_at,lead_time\n"
    assert content_of(build(folder, head + "".join(rows))) == {"p1.jpg": {"cat", "dog"}, "p3.jpg": {"cat"}}


def test_a_column_of_splits_divides(folder: Path) -> None:
    text = "path,labels,split\np1.jpg,cat,Train\nsub/p2.jpg,dog,valid\np3.jpg,cat,test\np4.jpg,dog,train\n"
    config = TableConfig(name="table", train=str(folder / "t.csv"))
    assert list(build(folder, text).names()) == ["p1.jpg", "p4.jpg"]
    assert config.splits == ("train", "val", "test")
    assert list(build(folder, text, split="val").names()) == ["sub/p2.jpg"]
    with pytest.raises(DataError, match=r"line 3: no label 'dog'.*dataset.labels=union.*dataset.labels=train"):
        build(folder, text.replace("p4.jpg,dog", "p4.jpg,cat"))
    assert build(folder, text.replace("p4.jpg,dog", "p4.jpg,cat"), labels="union").labels.names == ("cat", "dog")
    left = build(folder, text.replace("p4.jpg,dog", "p4.jpg,cat"), split="val", labels="train")
    assert left.labels.names == ("cat",)
    with pytest.raises(DataError, match=r"line 3: column split holds 'other'.*dataset.ignore=\[split\]"):
        build(folder, text.replace("valid", "other"))
    assert len(build(folder, text, ignore=("split",))) == 4


def test_shares_divide_what_has_no_splits(folder: Path) -> None:
    touch(folder, *(f"i{number}.jpg" for number in range(40)))
    text = "path,labels\n" + "".join(f"i{number}.jpg,{'ab'[number % 2]}\n" for number in range(40))
    shares = {"val_share": 0.25, "test_share": 0.25}
    parts = [set(build(folder, text, split=split, **shares).names()) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [20, 10, 10]
    assert not set.intersection(*parts)
    assert len(set.union(*parts)) == 40
    assert set(build(folder, text, split="val", split_seed=1, **shares).names()) != parts[1]
    with pytest.raises(ValueError, match="leave no image"):
        TableConfig(name="table", train="t.csv", val_share=0.5, test_share=0.5)


# Paths ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "paths",
    [
        ("C:\\Users\\me\\data\\images\\p1.jpg", "C:\\Users\\me\\data\\images\\sub\\p2.jpg"),
        ("/home/me/images/p1.jpg", "/home/me/images/sub/p2.jpg"),
        ("../input/images/p1.jpg", "../input/images/sub/p2.jpg"),
        ("data/images/p1.jpg", "data/images/sub/p2.jpg"),
        ("images/p1.jpg", "images/sub\\p2.jpg"),
        ("images\\p1.jpg", "images\\sub\\p2.jpg"),
        ("p1", "sub/p2"),
        ("file:///x/images/p1.jpg", "./images/sub/p2.jpg"),
        ("{root}/images/p1.jpg", "images/sub/p2.jpg"),
        ("p1.jpg", "p2.jpg"),
    ],
)
@pytest.mark.parametrize("root", [".", "images"])
def test_images_are_found_however_their_paths_are_written(tmp_path: Path, paths: tuple[str, str], root: str) -> None:
    touch(tmp_path, "images/p1.jpg", "images/sub/p2.jpg", "images/other.jpg")
    text = "path,labels\n" + "".join(f"{path.format(root=tmp_path)},cat\n" for path in paths)
    index = build(tmp_path, text, root=str(tmp_path / root))
    found = [Path(index.path(row)).resolve().relative_to(tmp_path).as_posix() for row in range(2)]
    assert found == ["images/p1.jpg", "images/sub/p2.jpg"]


def test_no_image_is_taken_for_another(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg", "dog/2.jpg", "cat/1.jpg", "a/x.jpg", "b/x.jpg", "y.jpg", "y.png")
    with pytest.raises(DataError, match="1 of the 2 images that the annotations list are missing"):
        build(tmp_path, "path,labels\ncat/1.jpg,c\ncat/2.jpg,c\n")
    message = refused(tmp_path, "path,labels\nx.jpg,c\n")
    assert re.search(r"line 2: several images are called x.jpg .*dataset.root=\S+/[ab]\S* or dataset.root=", message)
    assert "line 2: several images are called y" in refused(tmp_path, "path,labels\ny,c\n")


@pytest.mark.parametrize(
    ("files", "paths"),
    [
        (["images/0.jpg"], ["/data/cat/0.jpg", "/data/dog/0.jpg"]),
        (["images/0.jpg"], ["C:\\cat\\0.jpg", "D:\\dog\\0.jpg"]),
        (["images/0.jpg"], ["0.jpg", "/data/dog/0.jpg"]),
        (["dog/1.jpg"], ["old/dog/1.jpg", "new/dog/1.jpg"]),
        (["images/0.jpg"], ["images/0.jpg", "/data/dog/0.jpg"]),
        (["a.jpg"], ["3f2a1b4c-a.jpg", "9d8e7f6a-a.jpg"]),
        (["a.jpg"], ["A.jpg", "A.JPG"]),
    ],
)
def test_different_paths_never_mean_one_file(tmp_path: Path, files: list[str], paths: list[str]) -> None:
    touch(tmp_path, *files)
    message = refused(tmp_path, "path,labels\n" + "".join(f"{path},c\n" for path in paths))
    assert all(path in message for path in paths[-2:]), message
    assert "are different paths" in message


def test_one_path_in_several_spellings_is_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "images/0.jpg", "images/1.jpg")
    for paths in (["/x/images/0.jpg", "\\x\\images\\0.jpg", "/x//images/0"], ["0", "./0.jpg", "0.jpg"]):
        index = build(tmp_path, "path,labels\n" + "".join(f"{path},c\n" for path in paths))
        assert list(index.names()) == ["images/0.jpg"]


def test_paths_of_another_machine_whose_image_is_lacking_are_missing(tmp_path: Path) -> None:
    touch(tmp_path, "cat/0.jpg", "cat/1.jpg")
    text = "path,labels\n" + "".join(f"/data/{name},c\n" for name in ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg"))
    with pytest.raises(DataError, match=r"1 of the 3 images that the annotations list are missing \(dog/0\.jpg\)"):
        build(tmp_path, text)
    assert list(build(tmp_path, text, missing="drop").names()) == ["cat/0.jpg", "cat/1.jpg"]


def test_files_of_one_name_in_many_folders_are_each_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in CheXpert, train/patient00001/study1/view1_frontal.jpg."""
    calls = list[str]()

    def counted(path: str, inner: Callable[[str], str] = image_files._folder_backwards) -> str:
        calls.append(path)
        return inner(path)

    monkeypatch.setattr(image_files, "_folder_backwards", counted)
    patients = [f"patient{number}" for number in range(100)]
    touch(tmp_path, *(f"train/{patient}/study1/view.jpg" for patient in patients))
    files = image_files.ImageFiles(str(tmp_path))
    for patient in patients:
        expected = [f"train/{patient}/study1/view.jpg"]
        assert files.ending([patient, "study1", "view.jpg"]) == expected
        assert files.ending([patient, "study1", "view"]) == files.at(["train", patient, "study1", "view"]) == expected
        assert files.alike([patient.upper(), "Study1", "VIEW"]) == expected
        assert not files.ending(["atient1", "study1", "view.jpg"])
        assert not files.at([patient, "study1", "view"])
    assert len(files.ending(["study1", "view.jpg"])) == len(patients)
    assert len(calls) == 2 * len(patients)  # by its name, and by that without suffix


@pytest.mark.parametrize("path", ["http://x.org/p1.jpg", "s3://b/p1.jpg", "gs://b/p1.jpg"])
def test_urls_are_refused(folder: Path, path: str) -> None:
    assert "is a URL" in refused(folder, f"path,labels\np3.jpg,cat\n{path},cat\n")
    for text in (f"TRAIN,{path},cat\nTEST,{path},dog\n", f"link,labels\n{path}?v=1,cat\n"):  # and in any column
        assert "is a URL" in refused(folder, text)


def test_nothing_outside_of_the_root_is_found(tmp_path: Path) -> None:
    touch(tmp_path, "in/z.jpg", "out/p.jpg")
    message = refused(tmp_path / "in", "path,labels\n../out/p.jpg,cat\n")
    assert "may lie outside of" in message
    assert f"dataset.root={tmp_path}" in message
    index = build(tmp_path / "in", "path,labels\n../out/p.jpg,cat\n", root=str(tmp_path))
    assert list(index.names()) == ["out/p.jpg"]
    for path in ("/etc/hostname", "../../../../etc/hostname", "~/x.jpg/../../../../../../etc/hostname"):
        with pytest.raises(DataError):
            build(tmp_path / "in", f"path,labels\n{path},cat\n")


def test_the_root_that_is_offered_holds_absolute_and_relative_paths(tmp_path: Path) -> None:
    touch(tmp_path, "here/photos/1.jpg", "else/2.jpg")
    both = f"path,labels\nphotos/1.jpg,c\n{tmp_path}/else/2.jpg,c\n"
    message = refused(tmp_path / "here", both)
    assert f"use dataset.root={tmp_path}, which holds all." in message
    index = build(tmp_path / "here", both, root=str(tmp_path))
    assert list(index.names()) == ["here/photos/1.jpg", "else/2.jpg"]
    message = refused(tmp_path / "here", f"{both}/gone/3.jpg,c\n")
    assert f"use dataset.root={tmp_path}, which holds the 2 that exist of the first 3." in message
    assert "use dataset.root=FOLDER" in refused(tmp_path / "here", "path,labels\n/gone/3.jpg,c\n")


def test_each_table_has_its_own_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.jpg", "valid/b.jpg", "valid/a.jpg")
    (tmp_path / "train" / "_classes.csv").write_text("filename, cat, dog\na.jpg, 1, 0\n")
    (tmp_path / "valid" / "_classes.csv").write_text("filename, dog, cat\nb.jpg, 1, 0\na.jpg, 0, 1\n")
    config = TableConfig(
        name="table", train=str(tmp_path / "train" / "_classes.csv"), val=str(tmp_path / "valid" / "_classes.csv")
    )
    val = build_table(config, split="val")
    assert [val.path(row) for row in range(2)] == [str(tmp_path / "valid" / name) for name in ("b.jpg", "a.jpg")]
    assert val.targets([0, 1]).tolist() == [[0, 1], [1, 0]]


# Large tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [";", "|", ",", " ", ""])
@pytest.mark.parametrize("split", [False, True])
def test_pyarrow_reads_what_python_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str, split: bool
) -> None:
    pytest.importorskip("pyarrow")
    rng = random.Random(1)
    monkeypatch.setattr(arrow_rows, "BLOCK", 2**12)
    rows = []
    for row in range(500):
        labels = rng.choices("abcdefgh", k=rng.randint(0, 4) if sign else 1)
        cell = f"{sign} ".join(labels) if sign and sign != " " else sign.join(labels)
        rows.append([f"images/{row % 7}/é{row}.jpg", cell, rng.choice(["train", "val"]) if split else "x"])
    text = io.StringIO()
    csv.writer(text).writerows([["path", "labels", "split"], *rows])
    (tmp_path / "t.csv").write_text(text.getvalue(), encoding="utf-8")
    config = TableConfig(name="table", train=str(tmp_path / "t.csv"), missing="ignore")
    slow = read_table(config, "train")
    monkeypatch.setattr(arrow_rows, "SMALLEST", 0)
    used = []
    original = arrow_rows.read
    monkeypatch.setattr(arrow_rows, "read", lambda *args: used.append(original(*args)) or used[-1])
    fast = read_table(config, "train")
    assert used[0] is not None
    assert content_of(slow) == content_of(fast)
    assert slow.labels == fast.labels
    assert list(slow.names()) == list(fast.names())


@pytest.mark.parametrize(
    "change",
    ["path,labels\n", ' "q" ', "\n\n", "\\", "nan", "['a']", "a.jpg,x\na.jpg,y\n", "x,y,z\n", "\0", "./b", "#c,d\n"],
)
def test_what_pyarrow_would_read_otherwise_is_left_to_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    pytest.importorskip("pyarrow")
    rows = [f"{number}.jpg,a;b\n" for number in range(5)]
    for place in range(6):
        content = "path,labels\n" + "".join([*rows[:place], change, *rows[place:]])
        (tmp_path / "t.csv").write_text(content, newline="")
        config = TableConfig(name="table", train=str(tmp_path / "t.csv"), missing="ignore")
        results = []
        for smallest in (2**20, 0):
            monkeypatch.setattr(arrow_rows, "SMALLEST", smallest)
            try:
                results.append(content_of(read_table(config, "train")))
            except DataError as error:
                results.append(str(error))
        assert results[0] == results[1]


def test_separators_over_all_combinations(folder: Path) -> None:
    """A joined name is never a label: each is split, or refused."""
    for first, second in itertools.permutations([";", ",", "|", "/"], 2):
        text = f'path,labels\np1.jpg,"cat{first}dog"\np3.jpg,"dog{second}cat"\nsub/p2.jpg,cat\np4.jpg,dog\n'
        try:
            assert build(folder, text).labels.names == ("cat", "dog")
        except DataError as error:
            assert "dataset.separator=" in str(error)  # noqa: PT017


def test_arrays_of_rows_are_small(folder: Path) -> None:
    index = build(folder, "path,labels\n" + "".join(f"{name},{';'.join(labels)}\n" for name, labels in CONTENT))
    assert index.paths.values.dtype == np.uint8
    assert index.positives.values.dtype == np.int32


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1.jpg 0 1\n2.jpg 1\n3.jpg 0\n", [["0", "1"], ["1"], ["0"]]),
        ("1.jpg 3 4\n2.jpg 12 4\n3.jpg 0 3\n", [["3", "4"], ["4", "12"], ["0", "3"]]),
        ("1.jpg 3\n2.jpg 12\n3.jpg 0\n", [["3"], ["12"], ["0"]]),
        ("1.jpg cat dog\n2.jpg  dog\n3.jpg cat\n", [["cat", "dog"], ["dog"], ["cat"]]),
        ("1.jpg cat,dog\n2.jpg dog\n3.jpg cat\n", [["cat", "dog"], ["dog"], ["cat"]]),
        ("1.jpg 0 1 1\n2.jpg 1 0 0\n3.jpg 0 0 0\n", [["column_3", "column_4"], ["column_2"], []]),
        ("1.jpg\t5,7\n2.jpg\t7\n3.jpg\t5\n", [["5", "7"], ["7"], ["5"]]),
    ],
)
def test_lists_of_images_in_text_files(tmp_path: Path, content: str, expected: list[list[str]]) -> None:
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    index = build(tmp_path, content, "list.txt")
    found = content_of(index)
    assert [found[f"{number}.jpg"] for number in (1, 2, 3)] == [set(labels) for labels in expected]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'path,labels\np1.jpg,"[0, 1, 1]"\nsub/p2.jpg,"[1, 0, 0]"\n'),
        ("t.csv", 'path,labels\np1.jpg,"[0 1 1]"\nsub/p2.jpg,"[1 0 0]"\n'),
        ("t.csv", "path,labels\np1.jpg,0 1 1\nsub/p2.jpg,1 0 0\n"),
        ("t.csv", "p1.jpg\t0,1,1\nsub/p2.jpg\t1,0,0\n"),
        ("t.jsonl", '{"path": "p1.jpg", "labels": [0, 1, 1]}\n{"path": "sub/p2.jpg", "labels": [1, 0, 0]}\n'),
        ("t.json", '[{"path": "p1.jpg", "labels": [0, 1, 1]}, {"path": "sub/p2.jpg", "labels": [1, 0, 0]}]'),
    ],
)
def test_states_are_not_taken_for_labels(folder: Path, name: str, content: str) -> None:
    with pytest.raises(DataError, match=f"{name}.*the labels of each image are 3 zeros and ones, which seem to be"):
        build(folder, content, name)


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("im/1.JPG", "im/1.jpg"),
        ("a%20b.jpg", "im/a b.jpg"),
        ("caf\u00e9.jpg", "im/cafe\u0301.jpg"),
        ("1", "im/0001.jpg"),
        ("1.jpg", "im/0001.jpg"),
        ("0001.jpg", "im/1.jpg"),
        ("/data/upload/3/1a2b3c4d-a.jpg", "im/a.jpg"),
        ("upload/3/1a2b3c4d-my_cat_1.jpg", "im/My cat (1.jpg"),
        ("C:\\me\\IM\\a.png", "im/a.png"),
    ],
)
def test_other_spellings_of_a_name_find_the_one_image_that_is_meant(tmp_path: Path, written: str, file: str) -> None:
    touch(tmp_path, file, "im/other7.jpg")
    index = build(tmp_path, f"path,labels\n{written},cat\nim/other7.jpg,dog\n")
    assert content_of(index) == {file: {"cat"}, "im/other7.jpg": {"dog"}}


def test_a_spelling_that_fits_two_images_or_one_that_is_listed_finds_none(tmp_path: Path) -> None:
    touch(tmp_path, "im/01.jpg", "im/001.jpg", "im/a.jpg")
    with pytest.raises(DataError, match=r"several images are called 1\.jpg"):
        build(tmp_path, "path,labels\n1.jpg,cat\n")
    with pytest.raises(DataError, match=r"1 of the 2 images that the annotations list are missing \(im/A\.jpg\)"):
        build(tmp_path, "path,labels\nim/a.jpg,cat\nim/A.jpg,dog\n")


def test_identifiers_with_slashes_are_labels(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    index = build(tmp_path, "ImageID,LabelName\n1,/m/01\n1,/m/02\n2,/m/02\n")
    assert content_of(index) == {"1.jpg": {"/m/01", "/m/02"}, "2.jpg": {"/m/02"}}


def test_numbers_in_class_columns_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    with pytest.raises(DataError, match=r"column cat holds '0\.9'; allowed are 1 present"):
        build(tmp_path, "path,cat,dog\n1.jpg,0.9,0.1\n")
    with pytest.raises(DataError, match="if each is a class, write 1 and 0 into its cells"):
        build(tmp_path, "path,cat,dog\n1.jpg,yes,no\n")


@pytest.mark.parametrize(
    ("true", "false"), [("True", "False"), ("WAHR", "FALSCH"), ("VRAI", "FAUX"), ("verdadero", "falso")]
)
def test_true_and_false_of_spreadsheets_in_other_languages_are_states(tmp_path: Path, true: str, false: str) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    index = build(tmp_path, f"path,cat,dog\n1.jpg,{true},{false}\n2.jpg,{false},\n")
    assert index.targets([0, 1]).tolist() == [[1, 0], [0, -1]]


@pytest.mark.parametrize("cells", [("yes", "no"), ("Ja", "Nein"), ("y", "n"), ("x", "")])
def test_a_column_of_answers_is_asked_about(tmp_path: Path, cells: tuple[str, str]) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    text = f"path,defect\n1.jpg,{cells[0]}\n2.jpg,{cells[1]}\n"
    message = refused(tmp_path, text)
    assert "write 1 and 0 into its cells if it is a class, or use dataset.label_column=defect" in message
    assert build(tmp_path, text, label_column="defect").labels.names == tuple(sorted(filter(None, cells)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "path,cat,dog\n1.jpg,1,0\n2.jpg,1,0\n./1.jpg,0,1\n", "2 labels .* such as cat of 1.jpg"),
        ("t.csv", "path,cat,dog\n1.jpg,1,0\n2.jpg,0,0\n1.jpg,-1,0\n", None),
        ("t.csv", "path,cat,dog\n1.jpg,1,0\n2.jpg,1,0\n1.jpg,1,-1\n", None),
        ("t.csv", "path,labels\n1.jpg,cat\n1.jpg,dog\n", None),
        (
            "t.json",
            '[{"path": "1.jpg", "labels": {"cat": 1, "dog": 1}}, {"path": "1.jpg", "labels": {"cat": 0}}]',
            "1 label .* such as cat of 1.jpg",
        ),
    ],
)
def test_rows_of_an_image_that_contradict_one_another_are_said(
    tmp_path: Path, name: str, content: str, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    with caplog.at_level("INFO"):
        index = build(tmp_path, content, name)
    assert "cat" in content_of(index)["1.jpg"]
    found = [record.getMessage() for record in caplog.records if "absent in another" in record.getMessage()]
    assert len(found) == (said is not None)
    assert said is None or re.search(said, found[0])


def test_a_list_of_images_without_labels_beside_train_is_no_split(tmp_path: Path) -> None:
    """As in Kaggle's competitions."""
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "train.csv").write_text("image_id,labels\n1.jpg,cat\n")
    with pytest.raises(DataError, match=r"test\.csv: no column of labels beside image_id; .*: dataset=\S+/train\.csv"):
        build_file(tmp_path, "test.csv", "image_id\n2.jpg\n")


@pytest.mark.parametrize(
    ("content", "message", "option", "expected"),
    [
        (
            "path,cat,dog,target\n1.jpg,1,0,0\n2.jpg,0,1,1\n",
            "the columns target, cat, dog hold 0 and 1 alone; use dataset.label_column=target",
            {"ignore": ()},
            {"1.jpg": {"cat"}, "2.jpg": {"dog", "target"}},
        ),
        (
            "image,label,value\n1.jpg,cat,1\n1.jpg,dog,0\n2.jpg,dog,1\n",
            r"column value holds 1 and 0, where 0 may mean .* use 'dataset.ignore=\[value\]",
            {"ignore": ("value",)},
            {"1.jpg": {"cat", "dog"}, "2.jpg": {"dog"}},
        ),
        (
            "path;label\n1.jpg;3,0\n2.jpg;4,0\n",
            "'3,0' may be several labels or one; use dataset.separator=comma or dataset.separator=none",
            {"separator": "none"},
            {"1.jpg": {"3,0"}, "2.jpg": {"4,0"}},
        ),
        (
            "path,labels,is_valid,is_test\n1.jpg,cat,0,0\n2.jpg,cat,0,1\n",
            r"the columns is_valid, is_test divide the images; .* 'dataset.ignore=\[is_valid\]",
            {"ignore": ("is_valid", "is_test")},
            {"1.jpg": {"cat"}, "2.jpg": {"cat"}},
        ),
    ],
)
def test_what_may_be_meant_otherwise_is_asked(
    tmp_path: Path, content: str, message: str, option: dict[str, Any], expected: dict[str, set[str]]
) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(DataError, match=message):
        build(tmp_path, content)
    assert content_of(build(tmp_path, content, **option)) == expected


def test_an_empty_column_says_nothing_about_the_others(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    index = build(tmp_path, "path,animal,remark\n1.jpg,cat,\n2.jpg,dog,\n")
    assert content_of(index) == {"1.jpg": {"cat"}, "2.jpg": {"dog"}}


def test_headers_that_the_export_escaped_are_read_as_they_were(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    assert build(tmp_path, "path,'-minus,'=eq,plain\n1.jpg,1,0,1\n").labels.names == ("-minus", "=eq", "plain")


def test_long_cells_take_linear_time() -> None:
    """Each took minutes in patterns that were tried from every place of a text."""
    size = 2**19
    assert not values.is_nothing("\t" * size + "x")
    assert values.is_nothing("\t" * size + "nan" + " " * size)
    for text in ("array(" + ",dtype=" * (size // 8), "array([" + " " * size + "x)", "(" + " " * size + "x"):
        with pytest.raises(DataError, match="no JSON list"):
            label_cells.parse_list(text, "t.csv line 2")


@pytest.mark.parametrize(
    "text", ["array(['a', 'b'], dtype=object)", " np.array(['a', 'b'],\n dtype='<U1') ", "array(['a' 'b'])"]
)
def test_arrays_as_numpy_prints_them_are_lists(text: str) -> None:
    assert label_cells.parse_list(text, "t.csv line 2") == ["a", "b"]


@pytest.mark.parametrize("index", ["Unnamed: 0", "Unnamed: 0.1", "Unnamed: 0.1.1", "Unnamed: 0_level_0", "level_0"])
def test_indexes_that_pandas_writes_are_no_classes(folder: Path, index: str) -> None:
    found = build(folder, f"{index},path,cat\n0,p1.jpg,1\n1,p3.jpg,0\n")
    assert found.labels.names == ("cat",)


@pytest.mark.parametrize("pattern", ["column_{}", "Unnamed: {}", "level_{}", "{}age"])
def test_many_columns_are_looked_at_together(pattern: str) -> None:
    names = ["path", *(pattern.format("_" * number if "age" in pattern else number) for number in range(1, 500)), "cat"]
    calls = list[int]()

    def sample(wanted: Sequence[str]) -> dict[str, list[str]]:
        calls.append(len(wanted))
        return {
            name: ["a.jpg", "b.jpg"] if name == "path" else ["1.5" if "age" in name else "1", ""] for name in wanted
        }

    columns = find_columns("t.csv", names, sample, Chosen())
    assert columns.path == "path"
    assert columns.classes[-1] == "cat"
    assert len(calls) < 6
    assert sum(calls) <= len(names)


def test_a_link_to_itself_is_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    (tmp_path / "images" / "loop").symlink_to("loop")
    assert image_files.ImageFiles(str(tmp_path)).ending(["a.jpg"]) == ["images/a.jpg"]


@pytest.mark.parametrize("cells", [("[1, 0]", "[0, 1]"), ("1 0", "0 1"), ("[1, 0]", ""), ("[0, 1, -1]", "[1, 0, -1]")])
def test_a_state_for_each_of_two_classes_is_no_list_of_labels(folder: Path, cells: Sequence[str]) -> None:
    text = "".join(f'p{number}.jpg,"{cell}"\n' for number, cell in zip((1, 3), cells, strict=True))
    assert "a state for each class" in refused(folder, f"path,labels\n{text}")
    lines = "".join(f'{{"path": "p{n}.jpg", "labels": {cell}}}\n' for n, cell in zip((1, 3), cells, strict=True))
    if "[" in cells[1]:
        with pytest.raises(DataError, match="a state for each class"):
            build(folder, lines, "t.jsonl")
    assert len(build(folder, 'path,labels\np1.jpg,"[0, 1]"\np3.jpg,"[0, 1]"\n').labels.names) == 2


def test_numbers_of_boxes_without_a_header_are_no_labels(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mldec")
    expected = {"p1.jpg": {"cat", "dog"}, "p3.jpg": {"dog"}, "p4.jpg": set[str]()}
    last = "p1.jpg,1,1,3,3,cat\np1.jpg,0,0,2.5,3,dog\np3.jpg,4,4,9,9,dog\np4.jpg,,,,,\n"
    assert content_of(build(folder, last)) == expected
    assert content_of(build(folder, last, label_column="column_6")) == expected
    assert "each line is a box, whose label stands in column_6" in caplog.text
    first = "p1.jpg,cat,1,1,3,3\np1.jpg,dog,0,0,2,3\np3.jpg,dog,4,4,9,9\n"
    assert content_of(build(folder, first)) == {name: expected[name] for name in ("p1.jpg", "p3.jpg")}
    for text, sign in (
        ("p1.jpg,cat,0.9,dog,0.8\np3.jpg,cat,0.9\n", "comma"),
        ("p1.jpg,3,3,2,0,cat\np3.jpg,,,,,\n", "comma"),
        ("p1.jpg,1,1,3,3,0\np3.jpg\n", "comma"),
        ("p1.jpg,1,0\np3.jpg,0,1\np4.jpg,1\n", "comma"),
        ("p1.jpg 5,10,15,20,0 3,5,20,12,3\np3.jpg 1,3,5,6,0\n", "space"),
        ("p1.jpg 5,10,15,20,0\np3.jpg 1,3,5,6,0\n", "comma"),
    ):
        message = refused(folder, text)
        assert options_in(message) == [{"separator": sign}], message
        assert {"cat", "0", "1,3,5,6,0"} & set(build(folder, text, separator=sign).labels.names)


def test_one_number_behind_each_path_is_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    with pytest.raises(DataError, match=r"column_2.*1, 0 and -1 alone") as caught:
        build(tmp_path, "a.jpg 0\nb.jpg 1\n", "list.txt")
    assert "dataset.label_column=column_2" in str(caught.value)
    assert "dataset.ignore=[]" in str(caught.value)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    asked = build(tmp_path, "a.jpg 0\nb.jpg 1\n", "list.txt", label_column="column_2")
    assert content_of(asked) == {"a.jpg": {"cat"}, "b.jpg": {"dog"}}
    (tmp_path / "classes.txt").unlink()
    assert content_of(build(tmp_path, "a.jpg 0\nb.jpg 1\n", "list.txt", ignore=())) == {
        "a.jpg": set(),
        "b.jpg": {"column_2"},
    }
    numbers = build(tmp_path, "a.jpg 0\nb.jpg 1\nc.jpg 2\n", "list.txt")
    assert content_of(numbers) == {"a.jpg": {"0"}, "b.jpg": {"1"}, "c.jpg": {"2"}}


@pytest.mark.parametrize("present", ["1", "TRUE"])
def test_class_columns_without_any_zero_are_asked_for(folder: Path, present: str) -> None:
    text = f"path,cat,dog\np1.jpg,{present},\np3.jpg,,{present}\np4.jpg,,\n"
    message = refused(folder, text)
    assert options_in(message) == [{"minus_one": "absent"}, {"minus_one": "unknown"}], message
    absent, unknown = (build(folder, text, minus_one=choice) for choice in ("absent", "unknown"))
    assert [row.tolist() for row in absent.unknown] == [[], [], []]
    assert [row.tolist() for row in unknown.unknown] == [[1], [0], [0, 1]]
    assert content_of(absent) == content_of(unknown) == {"p1.jpg": {"cat"}, "p3.jpg": {"dog"}, "p4.jpg": set()}
    mixed = build(folder, f"path,cat,dog\np1.jpg,{present},0\np3.jpg,,{present}\n", minus_one="absent")
    assert [row.tolist() for row in mixed.unknown] == [[], [0]]


def test_keys_of_jsonl_that_the_first_line_lacks_count(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mldec")

    def lines(*rows: str) -> str:
        return "".join(f'{{"path": "p{number}.jpg", {row}}}\n' for number, row in zip((1, 3, 4), rows, strict=False))

    train, val = '"labels": ["cat"], "split": "train"', '"labels": ["cat"], "split": "val"'
    for text in (lines('"labels": ["cat"]', val), lines(train, '"labels": ["cat"]', val)):
        with pytest.raises(DataError, match=r"t\.jsonl line \d: no split, which other lines have; .*dataset\.ignore"):
            build(folder, text, "t.jsonl")
        assert len(build(folder, text, "t.jsonl", ignore=("split",))) == text.count("\n")
    with pytest.raises(DataError, match=r"t\.jsonl line 1: no labels among path, tags"):
        build(folder, lines('"tags": ["x"]', '"tags": ["x"], "labels": ["dog"]'), "t.jsonl")
    build(folder, lines('"labels": ["cat"]', '"labels": ["cat"], "note": "late"'), "t.jsonl")
    assert "columns not used: note" in caplog.text
    with pytest.raises(DataError, match="line 2: dgo is none of the columns"):
        build(folder, lines('"dog": 1', '"dgo": 0'), "t.jsonl")


def test_keys_of_jsonl_behind_the_rows_that_tell_the_columns_are_not_dropped_in_silence(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mldec")

    def build_with(own: str, last: str, **settings: Any) -> ImageIndex:
        rows = [f'{{"path": "p{(1, 3)[number % 2]}.jpg", {own}}}\n' for number in range(250)]
        text = "".join(rows) + f'{{"path": "p4.jpg", {own}, {last}}}\n'
        return build(folder, text, "t.jsonl", **settings)

    build_with('"labels": ["cat"]', '"note": "late"')
    assert "keys not used: note from line 251" in caplog.text
    with pytest.raises(DataError, match=r"t\.jsonl line 1: no split, which other lines have; .*dataset\.ignore"):
        build_with('"labels": ["cat"]', '"split": "val"')
    assert len(build_with('"labels": ["cat"]', '"split": "val"', ignore=("split",))) == 3
    for last in ('"owl": 1', '"owl": null'):
        with pytest.raises(DataError, match="line 251: owl is none of the columns"):
            build_with('"cat": 1, "dog": 0', last)
    build_with('"cat": 1, "dog": 0', '"age": 7')
    assert "keys not used: age from line 251" in caplog.text


def test_single_quotes_around_a_cell_are_no_part_of_its_labels(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mldec")
    index = build(folder, "path,labels\np1.jpg,'cat;dog'\np3.jpg,'cat'\np4.jpg,dogs' day\n")
    assert index.labels.names == ("cat", "dog", "dogs' day")
    assert "without the single quotes around 2 different cells" in caplog.text


@pytest.mark.parametrize("sign", [" & ", " and ", " + "])
def test_a_word_between_labels_is_no_label(folder: Path, sign: str) -> None:
    text = f"path,labels\np1.jpg,cat{sign}dog\nsub/p2.jpg,dog{sign}cat\np3.jpg,cat\np4.jpg,dog\n"
    message = refused(folder, text)
    choice = re.findall(r'dataset\.separator="?( and |\w+)', message)[0]
    assert build(folder, text, separator=choice).labels.names == ("cat", "dog")
    assert len(build(folder, text, separator="none").labels.names) == 4
    whole = f"path,labels\np1.jpg,salt{sign}pepper\np3.jpg,cat\np4.jpg,dog\n"
    assert f"salt{sign}pepper" in build(folder, whole).labels.names


@pytest.mark.parametrize(
    ("sign", "name"),
    [("+", "plus"), (":", "colon"), ("&", "ampersand"), ("_", "underscore"), ("-", "hyphen")],
)
def test_labels_joined_with_a_rare_sign_are_asked_for(folder: Path, sign: str, name: str) -> None:
    text = f"path,labels\np1.jpg,cat{sign}dog\np3.jpg,cat\np4.jpg,dog\n"
    message = refused(folder, text)
    assert options_in(message)[:2] == [{"separator": name}, {"separator": "none"}], message
    assert build(folder, text, separator=name).labels.names == ("cat", "dog")
    assert len(build(folder, text, separator="none").labels.names) == 3
    assert len(build(folder, text.replace("p4.jpg,dog", "p4.jpg,hen")).labels.names) == 3
    with pytest.raises(DataError, match=rf"dataset\.separator=semicolon\+{name} or dataset\.separator=semicolon$"):
        build(folder, text.replace("p4.jpg,dog", "p4.jpg,dog;hen"))
